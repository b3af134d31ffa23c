"""Load in closed and open loops, against a server whose every move is known."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from service.bench import load as load_module
from service.bench.connection import Connection
from service.bench.load import Load, Outcome, Progress, Target, Unreachable
from service.bench.requests import Head, post

REQUEST = post(b"pixels", "image/png", Head("test"))
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
STRANGER = b"HTTP/1.1 401 Who?\r\nContent-Length: 0\r\n\r\n"
BUSY = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"
LAST = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Server:
    """Answers request i with `answer(i)` after `delay` seconds; None cuts the connection.

    A test whose run has to get something done says with `enough` when that is so: then the run is over, not earlier.
    """

    def __init__(
        self,
        answer: Callable[[int], bytes | None],
        delay: float = 0.0,
        enough: Callable[[Server], bool] = lambda _: False,
    ) -> None:
        self.answer, self.delay, self.requests, self.connections = answer, delay, 0, 0
        self._enough, self.seen_enough = enough, asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await reader.readexactly(len(REQUEST)):
                number, self.requests = self.requests, self.requests + 1
                if self._enough(self):
                    self.seen_enough.set()
                await self.may_answer.wait()
                await asyncio.sleep(self.delay)
                answer = self.answer(number)
                if answer is None:
                    break
                writer.write(answer)
                if b"close" in answer:
                    break
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def running(server: Server) -> AsyncIterator[Target]:
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listener:
        try:
            yield Target("127.0.0.1", listener.sockets[0].getsockname()[1])
        finally:
            listener.close()
            # a task that is cancelled before its first step can't close the connection that it was made for
            while answering := asyncio.all_tasks() - {asyncio.current_task()}:
                ended, _ = await asyncio.wait(answering, timeout=30)
                assert ended, "a connection stays open"
            await asyncio.sleep(0)


def run(
    server: Server,
    *,
    connections: int = 4,
    rate: float | None = None,
    seconds: float = 0.3,
    progress: Progress = lambda _outcome: None,
) -> Outcome:
    """Until the server has seen enough, `seconds` at most."""

    async def scenario() -> Outcome:
        async with running(server) as target:
            load = Load(target, [REQUEST], images_per_request=3, connections=connections)
            load._over = server.seen_enough
            return await (load.open(seconds, rate, progress) if rate else load.closed(seconds, progress))

    return asyncio.run(scenario())


def test_a_closed_loop_counts_what_the_server_counts() -> None:
    server = Server(lambda _: OK)
    outcome = run(server)
    assert outcome.statuses == {200: server.requests}
    assert len(outcome.latencies_s) == server.requests
    assert server.connections == 4
    assert outcome.images_per_second == pytest.approx(3 * server.requests / outcome.seconds)


def test_the_time_of_answers_after_the_end_counts_as_they_do() -> None:
    server = Server(lambda _: OK, delay=0.3)
    server.may_answer.clear()
    outcome = run(server, connections=2, seconds=0.1, progress=lambda _: server.may_answer.set())  # told at the end
    assert outcome.statuses == {200: 2}
    assert outcome.seconds >= 0.4


def test_statuses_are_kept_apart_and_only_good_ones_have_a_latency() -> None:
    server = Server(lambda number: BUSY if number % 2 else OK)
    outcome = run(server)
    assert outcome.statuses[200] + outcome.statuses[503] == outcome.answered == server.requests
    assert abs(outcome.statuses[200] - outcome.statuses[503]) <= 1
    assert len(outcome.latencies_s) == outcome.statuses[200]


def test_a_connection_that_is_cut_counts_as_no_answer_and_is_made_anew() -> None:
    server = Server(
        lambda number: None if number == 1 else OK, enough=lambda it: it.requests >= 20 and it.connections >= 5
    )
    outcome = run(server, seconds=60)
    assert outcome.statuses[0] == 1
    assert outcome.answered == server.requests
    assert server.connections == 5


def test_a_server_that_is_away_for_long_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(lambda number: None if number == 0 else OK, enough=lambda it: it.requests >= 20)
    connect, tries = Load._connect, 0

    async def often(load: Load) -> Connection:
        nonlocal tries
        tries += 1
        if 1 < tries < 2000:
            raise ConnectionRefusedError
        return await connect(load)

    monkeypatch.setattr(Load, "_connect", often)
    monkeypatch.setattr(load_module, "RECONNECT_S", 0)
    outcome = run(server, connections=1, seconds=60)
    assert tries == 2000
    assert outcome.statuses[200] == server.requests - 1 > 0


def test_a_server_that_closes_after_each_answer_is_followed() -> None:
    server = Server(lambda _: LAST, enough=lambda it: it.requests >= 20)
    outcome = run(server, connections=2, seconds=60)
    assert outcome.statuses == {200: server.requests}
    assert server.requests >= 20
    assert 0 <= server.connections - server.requests <= 2  # those that were there at the end


class Closing(Server):
    """Closes its first connection at once, and every one that is idle when the first request comes."""

    def __init__(self) -> None:
        super().__init__(self._answer, enough=lambda it: it.requests >= 20 and it.connections > 4)
        self.idle: list[asyncio.StreamWriter] = []

    def _answer(self, number: int) -> bytes:
        for writer in () if number else self.idle:
            writer.close()
        return OK

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.connections:
            self.connections += 1
            writer.close()
            return
        if not self.requests:
            self.idle.append(writer)
        await super().serve(reader, writer)


@pytest.mark.parametrize("rate", [None, 200])
def test_connections_that_end_while_they_are_idle_are_made_anew(rate: float | None) -> None:
    server = Closing()
    outcome = run(server, rate=rate, seconds=60)
    assert outcome.statuses.keys() <= {0, 200}  # a request may go out in the very moment in which its connection ends
    assert 0 <= outcome.answered - server.requests <= outcome.statuses[0]
    assert outcome.statuses[200] > 8
    assert server.connections > 4


@pytest.mark.parametrize("rate", [None, 200])
def test_who_has_no_right_to_an_answer_is_no_load(rate: float | None) -> None:
    server = Server(lambda _: STRANGER)
    outcome = run(server, rate=rate, seconds=60)
    assert outcome.shut_out
    assert outcome.answered == server.requests < 100


def test_who_had_a_right_to_an_answer_goes_on() -> None:
    server = Server(lambda number: STRANGER if number else OK, enough=lambda it: it.requests >= 20)
    outcome = run(server, connections=1, seconds=60)
    assert outcome.statuses == {200: 1, 401: server.requests - 1}
    assert server.requests >= 20
    assert not outcome.shut_out


def test_a_connection_that_comes_too_late_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one is closed by the server; the one in its place is there when the run is over."""
    server, over, late = Server(lambda _: LAST), asyncio.Event(), asyncio.Event()
    connect, opened = Load._connect, 0

    async def slowly(load: Load) -> Connection:
        nonlocal opened
        opened += 1
        if opened > 1:
            over.set()
            await late.wait()
        return await connect(load)

    async def scenario() -> Outcome:
        async with running(server) as target:
            load = Load(target, [REQUEST], images_per_request=1, connections=1)
            outcome = await load.closed(60, lambda _outcome: None, over)
            late.set()
            for _ in range(20):  # turns of the event loop
                await asyncio.sleep(0.001)
            return outcome

    monkeypatch.setattr(Load, "_connect", slowly)
    assert asyncio.run(scenario()).statuses == {200: 1}
    assert server.requests == 1


def test_an_open_loop_sends_at_its_rate_whatever_the_server_does() -> None:
    outcome = run(Server(lambda _: OK), rate=200, seconds=1.0)
    due = outcome.statuses[200] + outcome.late  # late ones are due ones too: this machine may be busy
    assert 120 < due < 280  # a Poisson process of 200: six standard deviations


def test_latency_counts_from_when_a_request_was_due() -> None:
    """One connection, 50 ms per answer, 100 requests per second: most of the time is spent waiting to be sent."""
    outcome = run(Server(lambda _: OK, delay=0.05), connections=1, rate=100, seconds=0.5)
    assert max(outcome.latencies_s) > 0.15
    assert outcome.late > 0  # said, not hidden


def test_an_address_where_nothing_listens_is_one_sentence() -> None:
    async def scenario() -> None:
        async with running(Server(lambda _: OK)) as target:
            pass
        await Load(target, [REQUEST], 1, 1).closed(0.1, lambda _outcome: None)

    with pytest.raises(Unreachable, match=r"Nothing answers at 127\.0\.0\.1"):
        asyncio.run(scenario())


def test_too_few_open_files_are_not_a_server_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = Load._connect

    async def full(load: Load) -> Connection:
        if len(load._connections) == 2:
            raise OSError(errno.EMFILE, "Too many open files")
        return await connect(load)

    monkeypatch.setattr(Load, "_connect", full)
    with pytest.raises(Unreachable, match=r"no more than 2 connections here \(Too many open files\); ask for fewer"):
        run(Server(lambda _: OK), connections=3)


@pytest.mark.parametrize(
    "url",
    ["https://x", "localhost:8000", "nonsense", "", "http://[::1", "http://x:99999", "http://a..b", "http://a b"],
)
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(Unreachable, match=r"is no address like http://127\.0\.0\.1:8000\.$"):
        Target.of(url)


@pytest.mark.parametrize("more", ["/v1/predict", "/?top_k=3", "?top_k=3", "#top"])
def test_what_would_be_passed_over_in_an_address_is_refused(more: str) -> None:
    with pytest.raises(Unreachable, match=r"is more than a server's address; leave out all but its host and port\.$"):
        Target.of(f"http://127.0.0.1:8000{more}")
    with pytest.raises(Unreachable, match="more than a server's address"):
        Target.of("http://me:word@127.0.0.1:8000")


@pytest.mark.parametrize(
    ("url", "named"),
    [("http://[::1]:8000/", "[::1]:8000"), ("http://[::1]", "[::1]:80"), ("http://127.0.0.1:8000", "127.0.0.1:8000")],
)
def test_a_server_is_named_to_itself_as_in_its_address(url: str, named: str) -> None:
    assert Target.of(url).authority == named
