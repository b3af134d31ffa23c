"""A Ray cluster on this machine, in a process of its own: `python -m tests.cluster CPUS`.

That is its head, which runs tasks too; each line of its input is another node's CPUs. A node has an address of its own
in 127.0.0.0/8, so that nothing of it is to be had from elsewhere.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import yaml

CONFIG = Path(__file__).parents[1] / "service" / "deploy" / "ray" / "serve.yaml"
CPUS_PER_REPLICA = 0.5
STARTUP_S = 600.0  # of a service, which takes ten seconds or, on a slow machine, minutes; Ray's command gives up sooner
STARTS = 3  # of a cluster
NODE_S = 300.0  # until a node is known to the others
OBJECT_STORE_BYTES = 96 << 20
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to Ray's makers
    "RAY_gcs_server_port_wait_time_s": "300",
    "RAY_DEDUP_LOGS": "0",  # no line is left out of a log that tests read
    # A proxy that is slow to start is waited for: after three checks of 5 s it would be killed and started anew.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "120",
}


@dataclass(frozen=True)
class LocalCluster:
    """Where the head is, and for each other node the process whose death is the node's."""

    address: str
    process: subprocess.Popen[bytes]
    nodes: list[int] = field(default_factory=list)

    def add_node(self, cpus: float) -> None:
        """Its processes cost the machine something for as long as the cluster lives, idle or not."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{cpus}\n".encode())
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "Ray starts no further node"
        self.nodes.append(json.loads(line))

    def kill(self, node: int) -> None:
        """End a node as a power cut would."""
        os.kill(self.nodes[node], signal.SIGKILL)


@contextmanager
def local_cluster(head: float, *cpus: float) -> Iterator[LocalCluster]:
    """A cluster with a head and a node for each other number of CPUs; nothing of it is left in the end."""
    words = [sys.executable, "-m", "tests.cluster", str(head)]
    for _ in range(STARTS):
        with subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | ENVIRONMENT
        ) as process:
            assert process.stdout
            if line := process.stdout.readline():
                cluster = LocalCluster(json.loads(line), process)
                for count in cpus:
                    cluster.add_node(count)
                yield cluster
            _, error = process.communicate()  # the end of its input is the end of the cluster
        if line:
            return
    raise AssertionError(error.decode())


@contextmanager
def serving(cluster: LocalCluster, folder: Path, models_dir: Path, model: str, **autoscaling: float) -> Iterator[str]:
    """The service as its configuration file says, but small; yields its address, and `folder` has its log."""
    config = yaml.safe_load(CONFIG.read_text())
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config["proxy_location"] = "HeadOnly"
    config["http_options"] |= {"port": port}
    (application,) = config["applications"]
    application["args"] = {
        "default_model": model, "models_dir": str(models_dir), "device": "cpu", "jobs_dir": str(folder / "jobs"),
    }  # fmt: skip
    (deployment,) = application["deployments"]
    deployment["ray_actor_options"]["num_cpus"] = CPUS_PER_REPLICA
    deployment["autoscaling_config"] |= autoscaling
    (folder / "serve.yaml").write_text(yaml.safe_dump(config))
    serve = str(Path(sys.executable).with_name("serve"))  # of this environment, activated or not
    words = [serve, "run", "--address", cluster.address, str(folder / "serve.yaml")]
    log, deadline = folder / "serve.log", time.monotonic() + STARTUP_S
    ready = False
    while not ready and time.monotonic() < deadline:  # each start goes on from what the one before has left in Ray
        with log.open("a") as output:
            process = subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT, env=os.environ | ENVIRONMENT)
        try:
            if ready := is_ready(process, port, deadline):
                yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(60)
            process.kill()  # Ray's command sometimes waits for what has ended
            process.wait()
    if not ready:
        raise AssertionError(log.read_text())


def is_ready(process: subprocess.Popen[bytes], port: int, deadline: float) -> bool:
    """Whether a replica answers before the process ends, or its time does."""
    while time.monotonic() < deadline:
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
            return True
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
            return False
    return False


def main(head: str) -> None:
    """Start the head, say where it is, start a node for each line of the input, and stop all when it ends."""
    from ray._private import services
    from ray.cluster_utils import Cluster

    services.get_node = patient(services.get_node)
    common = {"object_store_memory": OBJECT_STORE_BYTES}
    cluster = Cluster()
    cluster.add_node(
        num_cpus=float(head),
        node_ip_address="127.0.0.2",
        include_dashboard=False,
        no_monitor=True,  # which would add nodes where they can be had
        **common,
    )
    try:
        tell(cluster.address)
        for number, line in enumerate(sys.stdin, 3):
            node = cluster.add_node(num_cpus=float(line), node_ip_address=f"127.0.0.{number}", **common)
            tell(node.all_processes["raylet"][0].process.pid)
    finally:
        cluster.shutdown()


def patient(get_node: Callable[..., object]) -> Callable[..., object]:
    """Ray gives up a node that is not known after 30 s, as on a slow machine, and it goes on starting."""

    def wait(*which: object) -> object:
        deadline = time.monotonic() + NODE_S
        while True:
            try:
                return get_node(*which)
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    return wait


def tell(value: object) -> None:
    """A line for the process that started this one."""
    print(json.dumps(value), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
