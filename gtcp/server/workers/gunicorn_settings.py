"""Which of gunicorn's settings have an effect on gtcp's workers.

gunicorn is made for HTTP: many of its settings are about HTTP. One that would be relied on for
security, or that would break the service, is refused; others are named in one warning at start.
"""

from __future__ import annotations

from typing import Any

#: Refused when set: why, and what to do instead.
REFUSED = {
    "certfile": "TLS is gtcp's: set tls_cert and tls_key (GTCP_TLS_CERT, GTCP_TLS_KEY)",
    "keyfile": "TLS is gtcp's: set tls_cert and tls_key (GTCP_TLS_CERT, GTCP_TLS_KEY)",
    "ca_certs": "TLS is gtcp's: set tls_ca (GTCP_TLS_CA)",
    "cert_reqs": "TLS is gtcp's: set require_client_cert (GTCP_REQUIRE_CLIENT_CERT)",
    "ciphers": "TLS is gtcp's, which takes Python's default ciphers",
    "ssl_context": "TLS is gtcp's: set tls_cert and tls_key (GTCP_TLS_CERT, GTCP_TLS_KEY)",
    "proxy_protocol": "set gtcp's proxy_from (GTCP_PROXY_FROM) to the addresses of the proxies",
    "preload_app": (
        "the application would be loaded before the standard library is patched for gevent: a lock "
        "held while waiting would stop the worker, and SIGHUP would not load new code"
    ),
}

#: Without effect: what they are about does not exist here, or gtcp has its own setting for it.
WITHOUT_EFFECT = frozenset(
    [
        "access_log_format",
        "asgi_disconnect_grace_period",
        "asgi_lifespan",
        "asgi_loop",
        "casefold_http_method",
        "do_handshake_on_connect",
        "forwarded_allow_ips",
        "forwarder_headers",
        "header_map",
        "http2_cleartext",
        "http2_initial_window_size",
        "http2_max_concurrent_streams",
        "http2_max_frame_size",
        "http2_max_header_list_size",
        "http_parser",
        "http_protocols",
        "keepalive",
        "limit_request_field_size",
        "limit_request_fields",
        "limit_request_line",
        "paste",
        "permit_obsolete_folding",
        "permit_unconventional_http_method",
        "permit_unconventional_http_version",
        "post_request",
        "pre_request",
        "protocol",
        "proxy_allow_ips",
        "raw_paste_global_conf",
        "root_path",
        "secure_scheme_headers",
        "sendfile",
        "ssl_version",
        "strip_header_spaces",
        "suppress_ragged_eofs",
        "threads",
        "tmp_upload_dir",
        "uwsgi_allow_ips",
        "websocket_max_message_size",
    ]
)

#: With less effect than gunicorn documents.
LIMITED = {
    "reuse_port": "a connection that arrives just when a worker stops is lost",
    "statsd_host": "metrics of workers and of log lines are sent, none of requests",
}

#: As gunicorn documents them, or as the table in docs/how-to/gunicorn.md says.
WITH_EFFECT = frozenset(
    [
        "accesslog",
        "backlog",
        "bind",
        "capture_output",
        "chdir",
        "check_config",
        "child_exit",
        "config",
        "control_socket",
        "control_socket_disable",
        "control_socket_mode",
        "daemon",
        "default_proc_name",
        "dirty_apps",
        "dirty_graceful_timeout",
        "dirty_post_fork",
        "dirty_threads",
        "dirty_timeout",
        "dirty_worker_exit",
        "dirty_worker_init",
        "dirty_workers",
        "disable_redirect_access_to_syslog",
        "dogstatsd_tags",
        "enable_backlog_metric",
        "enable_stdio_inheritance",
        "errorlog",
        "graceful_timeout",
        "group",
        "initgroups",
        "logconfig",
        "logconfig_dict",
        "logconfig_json",
        "logger_class",
        "loglevel",
        "max_requests",
        "max_requests_jitter",
        "nworkers_changed",
        "on_dirty_starting",
        "on_exit",
        "on_reload",
        "on_starting",
        "pidfile",
        "post_fork",
        "post_worker_init",
        "pre_exec",
        "pre_fork",
        "print_config",
        "proc_name",
        "pythonpath",
        "raw_env",
        "reload",
        "reload_engine",
        "reload_extra_files",
        "spew",
        "statsd_prefix",
        "syslog",
        "syslog_addr",
        "syslog_facility",
        "syslog_prefix",
        "timeout",
        "umask",
        "user",
        "when_ready",
        "worker_abort",
        "worker_class",
        "worker_connections",
        "worker_exit",
        "worker_int",
        "worker_tmp_dir",
        "workers",
        "wsgi_app",
    ]
)


def refuse(cfg: Any) -> None:
    """Raise RuntimeError, with one line, for a setting that is refused."""
    for name, reason in REFUSED.items():
        if _is_set(cfg, name):
            raise RuntimeError(f"{name} can't be used with GtcpWorker: {reason}")


def warnings(cfg: Any) -> list[str]:
    """Return a line about the settings that were set and have no effect, and those with less."""
    unused = sorted(name for name in WITHOUT_EFFECT if _is_set(cfg, name))
    lines = [f"settings without effect on GtcpWorker: {', '.join(unused)}"] if unused else []
    return lines + [f"{name}: {text}" for name, text in LIMITED.items() if _is_set(cfg, name)]


def _is_set(cfg: Any, name: str) -> bool:
    """Return whether a setting is not its default; older versions do not have all of them."""
    setting = cfg.settings.get(name)
    return setting is not None and bool(setting.get() != type(setting)().get())
