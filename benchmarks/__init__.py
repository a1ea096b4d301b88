"""gtcp compared with its peers, its floors and itself, on your machine.

    pip install -e ".[bench]" && python -m benchmarks

runs everything in about seven minutes; `python -m benchmarks --help` says what else there is.
In one run all contenders answer the same call, one after the other, round by round, so that
their ratios mean something; the figures of two runs, or of two machines, do not.
"""
