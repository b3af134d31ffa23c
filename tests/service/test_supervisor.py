"""Several processes behind one address: real ones, since what matters here is what happens when they die."""

from __future__ import annotations

import asyncio
import errno
import http.client
import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import AsyncMock, Mock, call

import pytest

from service.accepting import Worker
from service.bench.load import Load, Outcome, Target
from service.bench.requests import Head, post
from service.channel import Channel, Message
from service.supervisor import Supervisor
from tests.conftest import encode, picture, write_colour_model
from tests.processes import WORKERS, Convoy, running

RED = encode(picture("red"))


def predict(connection: http.client.HTTPConnection) -> int:
    connection.request("POST", "/v1/predict", RED, {"Content-Type": "image/png"})
    response = connection.getresponse()
    response.read()
    return response.status


def version(connection: http.client.HTTPConnection) -> str:
    """Of the model that answers."""
    connection.request("POST", "/v1/predict", RED, {"Content-Type": "image/png"})
    return str(json.loads(connection.getresponse().read())["model"]["version"])


def sockets_of(pid: int, port: int) -> int:
    """How many connections to `port` the process holds, those included whose client has closed its end."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(str(descriptor.readlink()))
        except OSError:
            continue
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    here = [row for row in rows if int(row[1].partition(":")[2], 16) == port]
    return sum(f"socket:[{row[9]}]" in inodes for row in here if row[3] in ("01", "08"))  # established, close-wait


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_connections_are_spread_evenly_and_a_dead_worker_takes_no_other_along_nor_what_was_counted(
    models_dir: Path,
) -> None:
    with running(models_dir) as convoy:
        connections = [convoy.connect() for _ in range(6)]
        assert {predict(connection) for connection in connections} == {200}
        held = {pid: sockets_of(pid, convoy.port) for pid in convoy.workers()}
        assert list(held.values()) == [3, 3]

        victim, survivor = held
        os.kill(victim, signal.SIGKILL)
        convoy.wait_for(f"worker {victim} ended with status -9")
        outcomes: Counter[object] = Counter()
        for connection in connections:
            try:
                outcomes[predict(connection)] += 1
            except (ConnectionError, http.client.HTTPException):
                outcomes["lost"] += 1
        assert outcomes == {200: 3, "lost": 3}  # the other worker's clients don't notice
        assert predict(convoy.connect()) == 200
        assert survivor in convoy.workers()
        scrape = convoy.connect()
        scrape.request("GET", "/metrics")
        lines = scrape.getresponse().read().decode().splitlines()
        assert 'convoy_requests_total{route="/v1/predict",method="POST",status="200"} 10' in lines
        assert 'convoy_images_total{model="colours",version="2",outcome="predicted"} 10' in lines
        assert 'convoy_queue_images{model="colours"} 0' in lines
        assert convoy.stop() == 0


def test_what_one_worker_is_told_of_models_is_so_in_all_once_it_answers_and_no_request_fails(
    models_dir: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(models_dir, tmp_path / "models"))
    (tmp_path / "admins").write_text("a-key-of-the-operator\n")
    headers = {"X-API-Key": "a-key-of-the-operator"}
    with running(root, admin_keys_file=str(tmp_path / "admins")) as convoy:
        connections = [convoy.connect() for _ in range(WORKERS)]
        assert {version(connection) for connection in connections} == {"2"}
        statuses, done = Counter[int](), threading.Event()

        def keep_asking(connection: http.client.HTTPConnection) -> None:
            while not done.is_set():
                statuses[predict(connection)] += 1

        threads = [threading.Thread(target=keep_asking, args=(connection,)) for connection in connections]
        for thread in threads:
            thread.start()
        write_colour_model(root / "colours" / "3", scale=0.03)
        convoy.process.send_signal(signal.SIGHUP)
        convoy.wait_for("models are up to date", times=WORKERS)
        done.set()
        for thread in threads:
            thread.join()
        assert list(statuses) == [200]
        assert {version(connection) for connection in connections} == {"3"}

        for each in ("1", "2", "1"):
            for asked in connections:
                asked.request("POST", f"/v1/models/colours/versions/{each}/activate", headers=headers)
                response = asked.getresponse()
                assert (response.status, json.loads(response.read())["active_version"]) == (200, each)
                assert [version(connection) for connection in connections] == [each] * WORKERS

        def ask(connection: http.client.HTTPConnection, verb: str) -> None:
            connection.request("POST", f"/v1/models/colours/versions/2/{verb}", headers=headers)
            told.append(connection.getresponse().status)

        told = list[int]()
        threads = [threading.Thread(target=ask, args=way) for way in zip(connections, ("load", "unload"), strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert told == [200, 200]
        os.kill(convoy.workers()[0], signal.SIGKILL)
        convoy.wait_for("another starts")
        assert {version(convoy.connect()) for _ in range(2 * WORKERS)} == {"1"}
        assert convoy.stop() == 0


def test_sigterm_finishes_what_has_begun(models_dir: Path) -> None:
    with running(models_dir) as convoy:
        connection = convoy.connect()
        connection.putrequest("POST", "/v1/predict")
        connection.putheader("Content-Type", "image/png")
        connection.putheader("Content-Length", str(len(RED)))
        connection.endheaders(RED[:10])
        idle = convoy.connect()
        assert predict(idle) == 200
        convoy.process.send_signal(signal.SIGTERM)
        convoy.wait_for("Waiting for connections to close")
        connection.send(RED[10:])
        assert connection.getresponse().status == 200
        assert convoy.process.wait(60) == 0


def test_sigterm_to_all_processes_at_once_leaves_time_for_balancers(models_dir: Path) -> None:
    with running(models_dir, lame_duck_ms="600000") as convoy:
        for pid in (*convoy.workers(), convoy.process.pid):  # as systemd does
            os.kill(pid, signal.SIGTERM)
        assert {predict(convoy.connect()) for _ in range(500)} == {200}  # a worker that takes its leave needs less time
        convoy.process.send_signal(signal.SIGINT)
        assert convoy.process.wait(60) == 0


def test_ctrl_c_waits_for_no_balancer(models_dir: Path) -> None:
    with running(models_dir, workers="2", lame_duck_ms="600000") as convoy:
        convoy.process.send_signal(signal.SIGINT)
        assert convoy.process.wait(60) == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c_twice_waits_for_no_request(models_dir: Path, workers: str) -> None:
    patient = {"drain_timeout_ms": "600000", "request_timeout_ms": "600000"}
    with running(models_dir, workers=workers, **patient) as convoy:
        for _ in range(int(workers)):  # one for each
            connection = convoy.connect()
            connection.putrequest("POST", "/v1/predict")
            connection.putheader("Content-Type", "image/png")
            connection.putheader("Content-Length", str(len(RED)))
            connection.endheaders(RED[:10])
        assert [predict(convoy.connect()) for _ in range(int(workers))] == [200] * int(workers)
        convoy.process.send_signal(signal.SIGINT)
        convoy.wait_for("Waiting for connections to close", times=int(workers))  # or it would be one's first signal
        convoy.process.send_signal(signal.SIGINT)
        assert convoy.process.wait(60) == 0
    assert "Traceback" not in "".join(convoy.log)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sigterm_under_load_leaves_no_request_without_an_answer(models_dir: Path, workers: str) -> None:
    """Every answer of a stopping service ends its connection, so that connections begin until the very last moment."""

    async def stopped_under_load(convoy: Convoy) -> Outcome:
        request = post(RED, "image/png", Head("test"))
        load, over = Load(Target("127.0.0.1", convoy.port), [request], 1, connections=16), asyncio.Event()
        loading = asyncio.create_task(load.closed(120, lambda _outcome: None, over))
        while load.outcome.answered < 100:
            await asyncio.sleep(0.01)
        assert await asyncio.to_thread(convoy.stop) == 0
        over.set()
        return await loading

    with running(models_dir, workers=workers, lame_duck_ms="200") as convoy:
        outcome = asyncio.run(stopped_under_load(convoy))
    assert set(outcome.statuses) == {200}


def test_clients_that_all_leave_at_once_end_no_worker(models_dir: Path) -> None:
    """A worker says of each that it has gone: far more than its channel to the parent holds."""
    with running(models_dir) as convoy:
        connections = [convoy.connect() for _ in range(1200)]
        for connection in connections:
            connection.request("GET", "/livez")
        for connection in connections:
            assert connection.getresponse().read()
        pids = convoy.workers()
        convoy.process.send_signal(signal.SIGSTOP)  # so that nobody reads
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        for connection in connections:
            connection.close()
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        while any(sockets_of(pid, convoy.port) for pid in pids):
            time.sleep(0.05)
        convoy.process.send_signal(signal.SIGCONT)
        assert [predict(convoy.connect()) for _ in range(2 * WORKERS)] == [200] * 2 * WORKERS
        assert convoy.workers() == pids
        assert convoy.stop() == 0


def test_a_worker_that_dies_while_another_reloads_keeps_nobody_waiting() -> None:
    """What it can no longer say is not waited for, and the next reload comes about."""
    told: list[str] = []

    async def play() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            supervisor = lone(listener, lambda: None)
            pairs = [socket.socketpair() for _ in range(2)]
            workers = [Worker(Mock(), Channel(ours)) for ours, _ in pairs]
            supervisor._workers += workers
            first, second = (Channel(theirs) for _, theirs in pairs)

            def heard(message: Message, _connection: socket.socket | None) -> None:
                told.append(message.name)
                if len(told) == 1:
                    supervisor._forget(workers[1])
                first.send(Message.RELOADED)

            first.open(heard, lambda: None)
            for worker in workers:
                worker.channel.open(partial(supervisor._hear, worker), partial(supervisor._lose, worker))
            reloading = asyncio.create_task(supervisor._reload())
            async with asyncio.timeout(30):
                for count in (1, 2):
                    supervisor._reload_asked.set()
                    while len(told) < count or supervisor._reload_asked.is_set():
                        await asyncio.sleep(0)
            reloading.cancel()
            for channel in (first, second, workers[0].channel):
                channel.close()
            os.close(supervisor._counters)

    asyncio.run(play())
    assert told == ["RELOAD", "RELOAD"]


def test_workers_that_cannot_start_end_the_service_with_one_sentence(tmp_path: Path) -> None:
    with running(tmp_path) as convoy:
        assert convoy.process.wait(60) == 1
        convoy.wait_for("convoy: The default model colours can't be served")
        assert len([line for line in convoy.log if line.startswith("convoy: ")]) == 1


def test_whichever_worker_cannot_be_replaced_says_why(models_dir: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(models_dir, tmp_path / "models"))
    with running(root) as convoy:
        shutil.rmtree(root)
        os.kill(convoy.workers()[-1], signal.SIGKILL)
        convoy.wait_for("convoy: The default model colours can't be served")


def lone(listener: socket.socket, announce: Callable[[], None]) -> Supervisor:
    """One that starts nobody."""
    return Supervisor(listener, b"", count=1, lame_duck_s=0, drain_timeout_s=0, announce=announce)


def test_what_a_worker_had_not_taken_when_it_died_goes_to_another_and_it_is_forgotten() -> None:
    channels = [Mock(), Mock()]

    async def play() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            supervisor = lone(listener, lambda: None)
            dead, living = workers = [Worker(Mock(), channel) for channel in channels]
            supervisor._workers += workers
            taken, left = Mock(), Mock()
            assert dead.give(taken)
            assert dead.give(left)
            living.ready = True
            supervisor._hear(dead, Message.TAKEN, None)
            supervisor._forget(dead)
            assert supervisor._workers == [living]
            assert channels[0].close.call_args_list == [call()]
            assert channels[1].hand_over.call_args_list == [call(left)]
            assert [each.close.call_args_list for each in (taken, left)] == [[call()], []]
            os.close(supervisor._counters)

    asyncio.run(play())


@pytest.mark.parametrize(("stopping", "announced"), [(False, ["ready"]), (True, [])])
def test_a_worker_that_is_ready_when_the_service_stops_is_not_announced(stopping: bool, announced: list[str]) -> None:
    said: list[str] = []

    async def hear() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            supervisor = lone(listener, lambda: said.append("ready"))
            ours, theirs = socket.socketpair()
            worker = Worker(Mock(), Channel(ours))
            supervisor._workers.append(worker)
            if stopping:
                supervisor._stop.set()
            with ours, theirs:
                supervisor._hear(worker, Message.READY, None)
            os.close(supervisor._counters)

    asyncio.run(hear())
    assert said == announced


def test_after_a_worker_that_takes_anothers_place_all_look_at_the_models() -> None:
    """It has what the repository holds now, perhaps a version that nobody has said anything of yet."""
    asked: list[bool] = []

    async def hear() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            supervisor = lone(listener, lambda: None)
            for _ in range(2):
                worker = Worker(Mock(), Mock())
                supervisor._workers[:] = [worker]
                supervisor._hear(worker, Message.READY, None)
                asked.append(supervisor._reload_asked.is_set())
            os.close(supervisor._counters)

    asyncio.run(hear())
    assert asked == [False, True]


def test_the_first_worker_has_the_time_to_say_why_none_can_start() -> None:
    """It is the one that says so, and may be slower to find out than the others."""
    events: list[str] = []

    class Failing(Supervisor):
        async def _start(self, strip: int) -> Worker:
            async def wait() -> int:
                for _ in range(2 if strip else 50):  # turns of the event loop
                    await asyncio.sleep(0)
                events.append(f"{strip} ended")
                return 1

            process = Mock(wait=wait, send_signal=lambda number: events.append(f"{strip} told {number.name}"))
            worker = Worker(process, Channel(socket.socket()))
            self._workers.append(worker)
            return worker

    async def run() -> int:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            return await Failing(listener, b"", count=2, lame_duck_s=0, drain_timeout_s=0, announce=lambda: None).run()

    assert asyncio.run(run()) == 1
    assert events == ["1 ended", "0 ended"]


def test_a_worker_that_is_killed_while_it_starts_ends_the_service_with_a_guess_at_the_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Killed(Supervisor):
        async def _start(self, strip: int) -> Worker:  # noqa: ARG002 - the signature is the supervisor's
            worker = Worker(Mock(pid=7, wait=AsyncMock(return_value=-signal.SIGKILL)), Mock())
            self._workers.append(worker)
            return worker

    async def run() -> int:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            return await Killed(listener, b"", count=1, lame_duck_s=0, drain_timeout_s=0, announce=lambda: None).run()

    assert asyncio.run(run()) == 1
    said = "worker 7 ended with status -9 before it could serve: it was killed, as happens where memory runs out"
    assert [record.getMessage() for record in caplog.records] == [said]


def test_a_machine_without_room_for_the_first_worker_ends_the_service_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pairs: list[tuple[socket.socket, socket.socket]] = []
    socketpair = socket.socketpair

    def pair() -> tuple[socket.socket, socket.socket]:
        pairs.append(socketpair())
        return pairs[-1]

    async def run() -> int:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            supervisor = lone(listener, lambda: None)
            monkeypatch.setattr(socket, "socketpair", pair)
            full = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            monkeypatch.setattr(asyncio, "create_subprocess_exec", Mock(side_effect=full))
            return await asyncio.wait_for(supervisor.run(), 30)

    assert asyncio.run(run()) == 1
    assert [end.fileno() for ends in pairs for end in ends] == [-1, -1]
    said = [record.getMessage() for record in caplog.records]
    assert said == ["a worker can't be started: [Errno 24] Too many open files"]


@pytest.mark.parametrize("full", [OSError(errno.EAGAIN, "no process"), RuntimeError("can't start new thread")])
def test_a_worker_is_replaced_once_the_machine_has_room_for_it_again(
    full: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Full(Supervisor):
        tries = 0

        async def _start(self, strip: int) -> Worker:  # noqa: ARG002 - the signature is the supervisor's
            self.tries += 1
            if self.tries < 3:
                raise full

            async def wait() -> int:
                self._stop.set()
                return 0

            worker = Worker(Mock(wait=wait), Mock())
            self._workers.append(worker)
            return worker

    async def run() -> int:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            supervisor = Full(listener, b"", count=1, lame_duck_s=0, drain_timeout_s=0, announce=lambda: None)
            supervisor._announced = True
            assert await asyncio.wait_for(supervisor.run(), 30) == 0
            return supervisor.tries

    monkeypatch.setattr("service.supervisor.RESTART_DELAYS_S", (0.0,))
    assert asyncio.run(run()) == 3
    assert [record.getMessage() for record in caplog.records] == [
        f"a worker can't be started: {full}; another starts in 0 s"
    ] * 2


def test_the_service_ends_though_a_worker_has_ended_before_it_is_told_to() -> None:
    class Ended(Supervisor):
        async def _start(self, strip: int) -> Worker:  # noqa: ARG002 - the signature is the supervisor's
            process = await asyncio.create_subprocess_exec("true")
            while process.returncode is None:
                await asyncio.sleep(0.01)
            self._stop.set()
            told = asyncio.Event()

            async def wait() -> int:
                await told.wait()
                return 0

            def send_signal(number: signal.Signals) -> None:
                told.set()
                process.send_signal(number)

            worker = Worker(Mock(wait=wait, send_signal=send_signal), Mock())
            self._workers.append(worker)
            return worker

    async def run() -> int:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            return await Ended(listener, b"", count=1, lame_duck_s=0, drain_timeout_s=0, announce=lambda: None).run()

    assert asyncio.run(run()) == 0
