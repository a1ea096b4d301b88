"""``python -m gtcp`` is the ``gtcp`` command."""

from gtcp.cli import main

if __name__ == "__main__":
    main()
