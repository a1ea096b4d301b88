"""The call everybody makes, and where. Imports nothing, so that it weighs nothing."""

HOST = "127.0.0.1"
ECHO = 10000
PARAMS = {"content": "Hello world!"}
