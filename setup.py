"""Packaging. The configuration of tools is in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
REPOSITORY = "https://github.com/gtcp-rpc/gtcp-rpc"

# The version is in one place: gtcp/version.py.
VERSION = re.search(
    r'^__version__ = "(.+)"$', (HERE / "gtcp/version.py").read_text(encoding="utf-8"), re.MULTILINE
).group(1)


def long_description() -> str:
    """Return the README with links that work where the package is shown: on the index."""
    text = (HERE / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"(!\[[^]]*\]\()(?!https?:)", rf"\1{REPOSITORY}/raw/v{VERSION}/", text)
    return re.sub(r"(?<!!)(\[[^]]*\]\()(?!https?:|#)", rf"\1{REPOSITORY}/blob/v{VERSION}/", text)


# gunicorn loads its gevent worker only where `packaging` is installed: its own extra needs that.
GUNICORN = ["gunicorn[gevent]>=25"]

# /metrics of the admin port; older versions have no `Gauge` modes such as livesum.
PROMETHEUS = ["prometheus-client>=0.20"]

# Clients of dns:// and srv://; zk:// and `gtcp serve --register`.
DNS = ["dnspython>=2.6"]
ZOOKEEPER = ["kazoo>=2.10"]

# gtcp.tracing.
OPENTELEMETRY = ["opentelemetry-api>=1.27"]

DOCS = [
    "kubernetes-validate>=1.30",  # the manifests of a page
    "furo>=2024.8",
    "myst-parser>=4",
    "sphinx>=8",
    "sphinx-click>=6",
    "sphinx-copybutton>=0.5.2",
]

# Where it has wheels: its build needs clang. Elsewhere fuzz/ uses hypothesis alone.
ATHERIS = (
    "atheris>=3; sys_platform == 'linux' and platform_machine == 'x86_64' "
    "and platform_python_implementation == 'CPython' "
    "and python_version >= '3.11' and python_version < '3.14'"
)

TEST = [
    *DNS,
    *GUNICORN,
    *PROMETHEUS,
    *ZOOKEEPER,
    "cryptography>=42",  # certificates that trustme does not make
    "coverage>=7.10",  # 7.10 measures subprocesses and forks by itself
    "hypothesis>=6.100",
    "opentelemetry-sdk>=1.27",
    "pybreaker>=1.2",  # the circuit breaker of an example
    "pytest>=8.4",
    "pytest-cov>=7",  # 7 leaves subprocesses to coverage
    "pytest-xdist>=3.6",
    "trustme>=1.2",
]

# What tests with the marker `programs` use beyond the extra `test`; they skip without it.
PROGRAMS = [
    "opentelemetry-exporter-otlp-proto-http>=1.27",
    "botocore>=1.34",
    "celery>=5.4",
    "circus>=0.18",
    "supervisor>=4.2",
    "Django>=5.1",
    "httpx>=0.27",
    "mypy>=1.15",  # checks generated clients
    "Flask>=3",
    "locust>=2.32",
    "psycogreen>=1.0.2",
    "psycopg2-binary>=2.9.10",
    "psycopg[binary,pool]>=3.2",
    "pymemcache>=4",
    "pyuwsgi>=2.0.28",
    "PyMySQL>=1.1",
    "python-memcached>=1.62",
    "python-json-logger>=3",
    "redis>=5",
    "requests>=2.32",
    "structlog>=24",
    "ruff>=0.9",  # checks generated clients
    "SQLAlchemy>=2",
    "websocket-client>=1.8",  # drives a browser
]

LINT = [
    "check-jsonschema>=0.29",  # workflow files
    "codespell>=2.4",
    "import-linter>=2.1",
    "mypy>=1.15",
    "proselint>=0.16",
    "ruff>=0.9",
    "types-gevent>=24.11",
    "types-gunicorn>=23",
]

BENCH = [
    *GUNICORN,
    "fastapi",
    "flask",
    "grpcio",
    "httpx",
    "Pyro5",
    "redis",
    "requests",
    "rpyc",
    "thriftpy2",
    "tornado",
    "uvicorn",
    "uvloop",
    "zerorpc",
]

setup(
    name="gtcp-rpc",
    version=VERSION,
    description=(
        "Synchronous RPC for Python services: deadlines enforced on both sides, and every error "
        "says whether the handler ran"
    ),
    long_description=long_description(),
    long_description_content_type="text/markdown",
    author="the gtcp authors",
    url=REPOSITORY,
    project_urls={
        "Documentation": f"{REPOSITORY}/tree/main/docs",
        "Source": REPOSITORY,
        "Changelog": f"{REPOSITORY}/blob/main/CHANGELOG.md",
        "Issues": f"{REPOSITORY}/issues",
    },
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
    package_dir={"": "."},  # `pip install -e` adds this folder to the path, not an import hook
    packages=find_packages(include=["gtcp", "gtcp.*"]),
    package_data={"gtcp": ["py.typed", "server/admin/*.html"]},
    install_requires=[
        "click>=8.1",
        "gevent>=24.10.1",
        "msgspec>=0.22",
        "tomli>=2; python_version < '3.11'",  # msgspec.toml reads with it
    ],
    extras_require={
        "dns": DNS,
        "gunicorn": GUNICORN,
        "opentelemetry": OPENTELEMETRY,
        "prometheus": PROMETHEUS,
        "zookeeper": ZOOKEEPER,
        "test": TEST,
        "programs": PROGRAMS,
        "lint": LINT,
        "docs": DOCS,
        "bench": BENCH,
        "fuzz": ["hypothesis>=6.100", ATHERIS],
    },
    entry_points={
        "console_scripts": ["gtcp = gtcp.cli:main"],
        "pytest11": ["gtcp = gtcp.testing.plugin"],
    },
)
