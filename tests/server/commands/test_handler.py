"""Registration, and from a line to a request and back: no network."""

import dataclasses
import enum
import functools
import json
import logging
import typing

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gtcp
from gtcp.cli.shorthand import shorthand
from gtcp.protocol.messages import Request
from tests.helpers import serving


def answer(commands, message):
    line = message if isinstance(message, bytes) else json.dumps(message).encode()
    reply = commands.answer(line)
    assert reply.count(b"\n") == 1
    assert reply.endswith(b"\n")
    return json.loads(reply)


class Greet(msgspec.Struct):
    content: str
    times: int = 1


class Options(msgspec.Struct):
    color: str = "red"


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class GreetRequest(gtcp.Request):
    params: Greet


class TraceRequest(gtcp.Request):
    params: dict[str, int]
    trace: str = "none"


class TestRegistration:
    @pytest.mark.parametrize(
        ("cmdid", "kind", "said"),
        [(each, ValueError, "cmdid") for each in (0, -1, 2**63)]
        + [(each, TypeError, "an int") for each in (True, "1", 1.0, None)],
    )
    def test_of_what_can_be_no_cmdid_is_refused(self, cmdid, kind, said):
        with pytest.raises(kind, match=said):
            gtcp.Commands().handler(cmdid)

    def test_twice_is_refused_and_names_both(self):
        commands = gtcp.Commands()

        @commands.handler(1)
        def first(request): ...

        def second(request): ...

        with pytest.raises(ValueError, match="1 is registered twice: first and second"):
            commands.handler(1)(second)

    def test_of_a_function_that_would_not_run_when_it_is_called_is_refused(self):
        async def later(request): ...

        async def later_still(request):
            yield 1

        class Callable:
            async def __call__(self, request): ...

        commands = gtcp.Commands()
        for each in (later, later_still, functools.partial(later), Callable()):
            with pytest.raises(
                TypeError, match=r"(later\w*|partial|Callable) is an async function"
            ):
                commands.handler(1)(each)
        assert len(commands) == 0

    def test_takes_a_member_of_an_enum_as_cmdid(self):
        class Command(enum.IntEnum):
            HELLO = 5

        commands = gtcp.Commands()
        commands.handler(Command.HELLO)(lambda request: {"content": request.params["content"]})
        reply = answer(commands, {"cmdid": 5, "params": {"content": "hi"}})
        assert reply == {"code": 0, "result": {"content": "hi"}}

    def test_after_it_is_served_is_refused(self):
        commands = gtcp.Commands()
        commands.table(64)
        with pytest.raises(RuntimeError, match="cmdid 1: the server has started"):
            commands.handler(1)(lambda request: None)

    def test_of_an_included_table_adds_all_or_says_which_is_twice(self):
        commands, more = gtcp.Commands(), gtcp.Commands()
        more.handler(1)(lambda request: "more")
        more.handler(2)(lambda request: "more")
        server = gtcp.Server(gtcp.Settings(port=0))
        server.include(more)
        assert [each.cmdid for each in server.commands] == [1, 2]
        server.include(more)  # the very same commands: nothing to refuse
        commands.handler(2)(lambda request: "other")
        with pytest.raises(ValueError, match="registered twice"):
            server.include(commands)

    def test_of_a_class_makes_one_instance(self):
        commands, made = gtcp.Commands(), []

        @commands.handler(1)
        class Count(gtcp.BaseHandler):
            def __init__(self):
                made.append(self)
                self.count = 0

            def process(self, request):
                self.count += 1
                return self.count

        assert [answer(commands, {"cmdid": 1})["result"] for _ in range(3)] == [1, 2, 3]
        assert len(made) == 1

    def test_of_a_class_without_process_and_of_another_class_is_refused(self):
        class Lazy(gtcp.BaseHandler):
            pass

        class Stranger:
            def process(self, request): ...

        for each, error, said in (
            (Lazy, NotImplementedError, "Lazy does not override process"),
            (Stranger, TypeError, r"Stranger is not a gtcp\.BaseHandler"),
        ):
            with pytest.raises(error, match=said):
                gtcp.Commands().handler(1)(each)

    def test_returns_what_it_was_given(self):
        def handler(request): ...

        assert gtcp.Commands().handler(1)(handler) is handler
        assert gtcp.Commands().handler(1)(Twice) is Twice

    def test_of_a_wrong_number_of_arguments_is_refused(self):
        for handler in (lambda: None, lambda request, more: None):
            with pytest.raises(TypeError, match="must take one argument"):
                gtcp.Commands().handler(1)(handler)
        gtcp.Commands().handler(1)(lambda request, cache=None: None)

    @pytest.mark.parametrize(
        ("name", "annotation", "said"),
        [
            *(("request", each, None) for each in (int, dict, "Nowhere", Greet, list[int])),
            ("request", gtcp.Request[complex], "the params of handler"),
            *(
                ("return", each, r"the result of handler.* has no JSON form")
                for each in (complex, logging.Logger, list[complex], dict[str, logging.Logger])
            ),
        ],
        ids=str,
    )
    def test_of_an_annotation_that_does_not_fit_is_refused(self, name, annotation, said):
        def handler(request): ...

        handler.__annotations__[name] = annotation
        with pytest.raises(TypeError, match=said):
            gtcp.Commands().handler(1)(handler)

    def test_of_a_struct_that_refers_to_itself_works(self):
        commands = gtcp.Commands()

        @commands.handler(1)
        def leaves(request: gtcp.Request["Tree"]) -> "Tree":
            return request.params

        nested = {"children": [{"children": []}]}
        assert answer(commands, {"cmdid": 1, "params": nested})["result"] == nested


class Tree(msgspec.Struct):
    children: "list[Tree]"


class Twice(gtcp.BaseHandler):
    """Doubles a number."""

    def process(self, request: gtcp.Request[dict[str, int]]) -> int:
        return request.params["n"] * 2


def typed(annotation):
    def handler(request):
        return {"type": type(request.params).__name__, "params": request.params}

    handler.__annotations__["request"] = annotation
    commands = gtcp.Commands()
    commands.handler(1)(handler)
    return commands


TYPED = [
    (gtcp.Request[Greet], {"content": "x"}, "Greet"),
    (GreetRequest, {"content": "x"}, "Greet"),
    (gtcp.Request[Point], {"x": 1}, "Point"),
    (gtcp.Request[list[int]], [1, 2], "list"),
    (gtcp.Request[dict[str, float]], {"a": 1.5}, "dict"),
    (gtcp.Request[int], 3, "int"),
    (gtcp.Request[str | None], None, "NoneType"),
    (gtcp.Request[typing.Any], [None], "list"),
    (gtcp.Request, {"a": [1]}, "dict"),
    (typing.Any, {"a": [1]}, "dict"),
]


class TestTypedParams:
    @pytest.mark.parametrize(("annotation", "params", "kind"), TYPED, ids=str)
    def test_are_decoded_before_the_handler_runs(self, annotation, params, kind):
        for cmdid in (1, "1"):  # the second way is the slow one
            reply = answer(typed(annotation), {"cmdid": cmdid, "params": params})
            assert reply["result"]["type"] == kind

    @pytest.mark.parametrize(
        ("annotation", "params", "where"),
        [
            (gtcp.Request[Greet], {}, "`content`"),
            (gtcp.Request[Greet], {"content": 1}, "$.params.content"),
            (GreetRequest, {"content": "x", "times": "2"}, "$.params.times"),
            (gtcp.Request[Point], {"x": None}, "$.params.x"),
            (gtcp.Request[list[int]], [1, "2"], "$.params[1]"),
            (gtcp.Request[list[int]], {}, "$.params"),
            (gtcp.Request, [], "$.params"),
        ],
        ids=str,
    )
    def test_that_do_not_fit_are_refused_with_their_path(self, annotation, params, where):
        ran = []

        def handler(request):
            ran.append(request)

        handler.__annotations__["request"] = annotation
        commands = gtcp.Commands()
        commands.handler(1)(handler)
        reply = answer(commands, {"cmdid": 1, "params": params, "id": 3})
        assert (reply["code"], reply["id"]) == (422, 3)
        assert reply["message"].startswith("wrong params: ")
        assert where in reply["message"]
        assert ran == []

    def test_may_be_missing_only_when_an_empty_object_fits(self):
        for annotation, params in (
            (gtcp.Request[Options], {"color": "red"}),
            (gtcp.Request[dict[str, int]], {}),
        ):
            assert answer(typed(annotation), {"cmdid": 1})["result"]["params"] == params
        for annotation in (gtcp.Request[Greet], gtcp.Request[list[int]]):
            assert answer(typed(annotation), {"cmdid": 1})["code"] == 422

    def test_message_does_not_tell_values(self):
        class Color(msgspec.Struct):
            name: typing.Literal["red", "green"]

        reply = answer(typed(gtcp.Request[Color]), {"cmdid": 1, "params": {"name": "secret"}})
        assert reply["code"] == 422
        assert "secret" not in reply["message"]

    def test_whose_own_code_fails_are_refused(self):
        class Picky(msgspec.Struct):
            n: int

            def __post_init__(self):
                if self.n == 1:
                    raise ValueError("not one")
                if self.n == 2:
                    raise LookupError("secret")

        commands = typed(gtcp.Request[Picky])
        refused = answer(commands, {"cmdid": 1, "params": {"n": 1}})
        assert (refused["code"], "not one" in refused["message"]) == (422, True)
        broken = answer(commands, {"cmdid": 1, "params": {"n": 2}})
        assert (broken["code"], broken["message"]) == (422, "wrong params: LookupError")

    @pytest.mark.parametrize("cmdid", [1, "1"])
    def test_fields_of_a_subclass_are_read_too(self, cmdid):
        commands = gtcp.Commands()

        @commands.handler(1)
        def trace(request: TraceRequest):
            return request.trace

        assert answer(commands, {"cmdid": cmdid, "params": {}, "trace": "abc"})["result"] == "abc"
        assert answer(commands, {"cmdid": cmdid, "params": {}})["result"] == "none"

    def test_of_two_commands_do_not_mix(self):
        commands = gtcp.Commands()

        def handler(request: GreetRequest):
            return request.cmdid

        commands.handler(1)(handler)
        commands.handler(2)(handler)
        for cmdid in (1, 2):
            request = {"cmdid": cmdid, "params": {"content": "x"}}
            assert answer(commands, request)["result"] == cmdid


class TestRequest:
    def test_has_what_the_line_says(self):
        commands, seen = gtcp.Commands(), []
        commands.handler(1)(seen.append)
        line = b'{"cmdid":1,"timestamp":1437000000,"id":"a","meta":{"tenant":"x"},"timeout":2000}'
        commands.answer(line + b"\r\n")
        (request,) = seen
        assert isinstance(request, Request)
        assert (request.cmdid, request.params, request.timestamp) == (1, {}, 1437000000)
        assert (request.id, request.meta, request.oneway) == ("a", {"tenant": "x"}, False)
        assert request.raw_body == request.rawBody == line
        assert 0 < request.remaining() <= 2
        assert request.address == ""

    def test_has_the_time_it_arrived_when_none_was_sent(self):
        commands, seen = gtcp.Commands(), []
        commands.handler(1)(seen.append)
        commands.answer(b'{"cmdid":1}')
        assert seen[0].timestamp > 1_700_000_000
        assert seen[0].remaining() is None


class TestAnswer:
    @pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
    def test_takes_the_line_with_or_without_its_end(self, end):
        assert gtcp.Commands().answer(b'{"cmdid":0,"id":1}' + end) == (
            b'{"code":0,"result":"pong","id":1}\n'
        )

    def test_of_a_oneway_request_is_empty(self):
        ran = []
        commands = gtcp.Commands()
        commands.handler(1)(lambda request: ran.append(1))
        assert commands.answer(b'{"cmdid":1,"oneway":true}') == b""
        assert commands.answer(b'{"cmdid":9,"oneway":true}') == b""
        assert ran == [1]

    def test_more_may_be_registered_after_it(self):
        commands = gtcp.Commands()
        assert answer(commands, {"cmdid": 1})["code"] == 404
        commands.handler(1)(lambda request: 1)
        assert answer(commands, {"cmdid": 1})["code"] == 0

    @given(st.binary())
    def test_any_bytes_get_one_line(self, data):
        reply = gtcp.Commands().answer(data)
        assert reply.count(b"\n") == 1
        assert json.loads(reply)["code"] in (0, 400, 404, 422)


class TestOwnCommands:
    def test_are_ping_by_default_and_others_by_name(self):
        def own(**params):
            return answer(gtcp.Commands(), {"cmdid": 0, "params": params})

        assert own()["result"] == own(op="ping")["result"] == "pong"
        assert own(op="cancel", id=5) == {"code": 0, "result": None}  # it is not in flight
        reply = own(op="fly")
        assert (reply["code"], "ping" in reply["message"]) == (422, True)

    def test_commands_lists_what_is_registered(self):
        commands = gtcp.Commands()
        commands.handler(2)(Twice)

        @commands.handler(1)
        def greet(request: gtcp.Request[Greet]) -> Greet:
            """Greet somebody.

            At length.
            """

        first, second = answer(commands, {"cmdid": 0, "params": {"op": "commands"}})["result"]
        assert (first["cmdid"], first["name"]) == (1, "greet")
        assert first["doc"] == "Greet somebody.\n\nAt length."
        assert "content" in json.dumps(first["params"])
        assert "content" in json.dumps(first["result"])
        assert (second["cmdid"], second["name"], second["doc"]) == (2, "Twice", "Doubles a number.")
        assert second["result"] == {"type": "integer"}


class TestFailure:
    def test_is_logged_under_the_id_that_the_caller_gets(self, caplog):
        commands = gtcp.Commands()

        @commands.handler(7)
        def broken(request):
            raise LookupError("secret")

        reply = answer(commands, {"cmdid": 7, "id": 1})
        assert (reply["code"], reply["id"]) == (500, 1)
        assert "secret" not in json.dumps(reply)
        (record,) = caplog.records
        assert reply["data"]["error_id"] in record.getMessage()
        assert "cmdid 7 (broken)" in record.getMessage()
        assert record.exc_info[0] is LookupError
        assert record.name == "gtcp.server"

    @pytest.mark.parametrize("how", ["argument", "class"])
    def test_is_logged_by_the_handlers_own_logger(self, caplog, how):
        own = logging.getLogger("tests.own")

        class Broken(gtcp.BaseHandler):
            logger = own if how == "class" else None

            def process(self, request):
                raise LookupError

        commands = gtcp.Commands()
        commands.handler(7, logger=own if how == "argument" else None)(Broken)
        assert answer(commands, {"cmdid": 7})["code"] == 500
        assert [each.name for each in caplog.records] == ["tests.own"]


class NoJsonForm:
    """A program's marker for "not given"."""


class Search(msgspec.Struct):
    text: str
    after: typing.Any = NoJsonForm()


class Broken(msgspec.Struct):
    text: str = "\ud800"


class Picture(msgspec.Struct):
    data: memoryview


class TestNotices:
    """Return what a server logs about its commands when it starts."""

    @pytest.mark.parametrize(("params", "value"), [(Search, {"text": "tea"}), (Broken, {})])
    def test_a_default_without_json_form_leaves_the_command_without_a_schema(
        self, caplog: pytest.LogCaptureFixture, params: type, value: dict[str, str]
    ) -> None:
        """Such a command can be called all the same, and the others are listed as ever."""

        def search(request):
            return len(request.params.text)

        search.__annotations__["request"] = gtcp.Request[params]
        commands = gtcp.Commands()
        commands.handler(7)(search)
        commands.handler(8)(Twice)
        with serving(commands) as up, up.line() as line:
            assert line.ask({"cmdid": 7, "params": value})["code"] == 0
            first, second = line.ask({"cmdid": 0, "params": {"op": "commands"}})["result"]
        assert list(first["params"]) == ["$comment"]
        assert shorthand(first["params"]) == "Any"
        assert second["result"] == {"type": "integer"}
        (record,) = [each for each in caplog.records if each.levelno == logging.WARNING]
        assert "cmdid 7 (search): its params are listed as Any" in record.getMessage()

    @pytest.mark.parametrize(
        ("result", "told"),
        [
            *(
                (each, True)
                for each in (
                    *(bytes, bytearray, memoryview, list[bytes], dict[str, bytes | None]),
                    *(Picture, list[Picture]),
                )
            ),
            (list[str], False),
        ],
    )
    def test_bytes_in_a_result_are_told(
        self, caplog: pytest.LogCaptureFixture, result: typing.Any, told: bool
    ) -> None:
        def picture(request: gtcp.Request[bytes | dict]):
            return b"\x89PNG"

        picture.__annotations__["return"] = result
        commands = gtcp.Commands()
        commands.handler(7)(picture)
        caplog.set_level(logging.INFO)
        with serving(commands) as up, gtcp.Client(up.address) as client:
            # A typed caller gets the bytes, as the notice says.
            assert client.call(7, result=bytes) == b"\x89PNG"
            assert client.call(7) == "iVBORw=="
        lines = [each for each in caplog.messages if "base64" in each]
        assert len(lines) == told
        start = "cmdid 7 (picture): the bytes in its result are sent as base64"
        assert all(each.startswith(start) for each in lines)
