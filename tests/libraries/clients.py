"""How each library is used: a function that makes the client shared by all handlers.

Each returns a function from the number of a key to its value, which is ``value-<number>``. Imported
in a monkey-patched process.
"""

# Each function imports its own library: the others need not be installed.

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any

Get = Callable[[int], str]

#: Places of each pool.
SIZE = 3

#: Libraries whose pool raises when no place is free; the others wait for one.
RAISE_WHEN_EMPTY = {"psycopg2_pool", "pymemcache_pool"}

#: Seconds that a pool waits for a place, and a client for its server.
SECONDS = 5

HOST = "127.0.0.1"
QUERY = "SELECT concat('value-', CAST(%s AS {}))"
POSTGRES_QUERY, MYSQL_QUERY = QUERY.format("TEXT"), QUERY.format("CHAR(9)")
POSTGRES = "host=127.0.0.1 port={} user=gtcp dbname=postgres sslmode=disable gssencmode=disable"


def redis(port: int) -> Get:
    import redis

    pool = redis.BlockingConnectionPool(host=HOST, port=port, max_connections=SIZE, timeout=SECONDS)
    client = redis.Redis(connection_pool=pool, decode_responses=True)
    return lambda key: text(client.get(f"key-{key}"))


def psycopg(port: int) -> Get:
    import psycopg

    lock = Lock()
    connection = psycopg.connect(POSTGRES.format(port), autocommit=True)

    def get(key: int) -> str:
        with lock:
            return str(connection.execute(POSTGRES_QUERY, [str(key)]).fetchone()[0])

    return get


def psycopg_pool(port: int) -> Get:
    import psycopg_pool

    pool = psycopg_pool.ConnectionPool(
        POSTGRES.format(port), min_size=1, max_size=SIZE, timeout=SECONDS, open=True
    )

    def get(key: int) -> str:
        with pool.connection() as connection:
            return str(connection.execute(POSTGRES_QUERY, [str(key)]).fetchone()[0])

    return get


def psycopg2_pool(port: int) -> Get:
    import psycogreen.gevent
    from psycopg2.pool import ThreadedConnectionPool

    psycogreen.gevent.patch_psycopg()
    pool = ThreadedConnectionPool(SIZE, SIZE, POSTGRES.format(port))

    def get(key: int) -> str:
        connection = pool.getconn()
        try:
            with connection.cursor() as cursor:
                cursor.execute(POSTGRES_QUERY, [str(key)])
                return str(cursor.fetchone()[0])
        finally:
            pool.putconn(connection)

    return get


def psycopg2(port: int) -> Get:
    import psycogreen.gevent
    import psycopg2

    psycogreen.gevent.patch_psycopg()
    lock = Lock()
    connection = psycopg2.connect(POSTGRES.format(port))

    def get(key: int) -> str:
        nonlocal connection
        with lock:
            if connection.closed:
                connection = psycopg2.connect(POSTGRES.format(port))
            with connection.cursor() as cursor:
                cursor.execute(POSTGRES_QUERY, [str(key)])
                return str(cursor.fetchone()[0])

    return get


def pymysql(port: int) -> Get:
    import pymysql

    lock = Lock()
    connection = pymysql.connect(host=HOST, port=port, user="gtcp", defer_connect=True)

    def get(key: int) -> str:
        with lock:
            connection.ping(reconnect=True)
            with connection.cursor() as cursor:
                cursor.execute(MYSQL_QUERY, [str(key)])
                return str(cursor.fetchone()[0])

    return get


def sqlalchemy_pymysql(port: int) -> Get:
    return _sqlalchemy(f"mysql+pymysql://gtcp@{HOST}:{port}/", MYSQL_QUERY)


def sqlalchemy_psycopg(port: int) -> Get:
    return _sqlalchemy(f"postgresql+psycopg://gtcp@{HOST}:{port}/postgres", POSTGRES_QUERY)


def _sqlalchemy(url: str, sql: str) -> Get:
    from sqlalchemy import create_engine, text

    engine = create_engine(url, pool_size=SIZE, max_overflow=0, pool_timeout=SECONDS)
    query = text(sql.replace("%s", ":key"))

    def get(key: int) -> str:
        with engine.connect() as connection:
            return str(connection.execute(query, {"key": str(key)}).scalar_one())

    return get


def pymemcache(port: int) -> Get:
    from pymemcache.client.base import Client

    lock = Lock()
    client = Client((HOST, port), connect_timeout=SECONDS, timeout=SECONDS)

    def get(key: int) -> str:
        with lock:
            return text(client.get(f"key-{key}"))

    return get


def pymemcache_pool(port: int) -> Get:
    from pymemcache.client.base import PooledClient

    client = PooledClient(
        (HOST, port), max_pool_size=SIZE, connect_timeout=SECONDS, timeout=SECONDS
    )
    return lambda key: text(client.get(f"key-{key}"))


def python_memcached(port: int) -> Get:
    import memcache

    # A threading.local: one connection for each greenlet in a patched process.
    client = memcache.Client([f"{HOST}:{port}"], socket_timeout=SECONDS)
    return lambda key: text(client.get(f"key-{key}"))


def requests(port: int) -> Get:
    return _requests(port, block=False)


def requests_block(port: int) -> Get:
    return _requests(port, block=True)


def _requests(port: int, *, block: bool) -> Get:
    import requests

    session = requests.Session()
    session.trust_env = False
    session.mount("http://", requests.adapters.HTTPAdapter(1, SIZE, pool_block=block))
    return lambda key: session.get(f"http://{HOST}:{port}/{key}", timeout=SECONDS).text


def httpx(port: int) -> Get:
    import httpx

    limits = httpx.Limits(max_connections=SIZE)
    client = httpx.Client(limits=limits, timeout=SECONDS, trust_env=False)
    return lambda key: client.get(f"http://{HOST}:{port}/{key}").text


def botocore(port: int) -> Get:
    import botocore.config
    import botocore.session

    client = botocore.session.Session().create_client(
        "s3",
        endpoint_url=f"http://{HOST}:{port}",
        region_name="us-east-1",
        aws_access_key_id="id",
        aws_secret_access_key="secret",
        config=botocore.config.Config(
            max_pool_connections=SIZE, retries={"total_max_attempts": 1}, read_timeout=SECONDS
        ),
    )
    return lambda key: text(client.get_object(Bucket="values", Key=str(key))["Body"].read())


def text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
