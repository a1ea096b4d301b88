"""Where the log lines of this application go."""

from pathlib import Path

import gtcp


class ServerLogger(gtcp.BaseLogger):
    """The logger of gtcp itself: on the console."""

    logger_name = "gtcp"
    logger_level = "INFO"


class HelloLogger(gtcp.BaseLogger):
    """The logger of the handlers: in a file beside this one."""

    logger_name = "hello"
    logger_level = "INFO"
    logger_path = Path(__file__).with_name("hello.log")
    logger_format_file = "%(asctime)s %(levelname)s %(message)s"
    logger_format_console = None
