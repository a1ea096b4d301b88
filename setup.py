"""Packaging. What the tools are told stands in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

DOCS = ["furo>=2024.8", "myst-parser>=4", "sphinx>=8"]

# gunicorn loads its gevent worker only where `packaging` is installed; its own extra sees to it.
GUNICORN = ["gunicorn[gevent]>=23"]

# Where it has wheels: its build needs clang. Elsewhere fuzz/ uses hypothesis alone.
ATHERIS = (
    "atheris>=3; sys_platform == 'linux' and platform_machine == 'x86_64' "
    "and platform_python_implementation == 'CPython' "
    "and python_version >= '3.11' and python_version < '3.14'"
)

TEST = [
    *GUNICORN,
    *DOCS,
    ATHERIS,
    "cryptography>=42",  # certificates that trustme does not make
    "coverage>=7.10",  # 7.10 measures subprocesses and forks by itself
    "hypothesis>=6.100",
    "import-linter>=2.1",
    "mypy>=1.15",
    "pytest>=8.4",
    "pytest-cov>=7",  # 7 leaves subprocesses to coverage
    "ruff>=0.9",
    "trustme>=1.2",
    "types-gevent>=24.11",
    "types-gunicorn>=23",
]

setup(
    name="gtcp",
    version="0.1.0",
    description="Synchronous RPC over TCP where the deadline is real and no call is lost",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="the gtcp authors",
    license="MIT",
    license_files=["LICENSE"],
    keywords=["rpc", "tcp", "gevent", "msgspec", "gunicorn"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: System :: Networking",
        "Typing :: Typed",
    ],
    python_requires=">=3.10",
    packages=find_packages(include=["gtcp", "gtcp.*"]),
    package_data={"gtcp": ["py.typed"]},
    install_requires=[
        "click>=8.1",
        "gevent>=24.10.1",
        "msgspec>=0.19",
        "tomli>=2; python_version < '3.11'",  # msgspec.toml reads with it
    ],
    extras_require={"gunicorn": GUNICORN, "test": TEST, "docs": DOCS},
    entry_points={
        "console_scripts": ["gtcp = gtcp.cli:main"],
        "pytest11": ["gtcp = gtcp.testing.plugin"],
    },
)
