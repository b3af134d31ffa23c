"""The application of `service/app.py` as a Ray Serve deployment: `serve run service/deploy/ray/serve.yaml`.

Every replica is what a worker process of `convoy serve` is: a whole copy of the service with a queue and an engine of
its own. Ray Serve's proxies take the connections and hand each request to a replica as ASGI; how many replicas there
are, and what part of a CPU or GPU each may have, is said in the configuration file.
"""

from __future__ import annotations

import ray
from ray import serve

from service import telemetry
from service.app import Application, create_app
from service.settings import Settings, load


def application(arguments: dict[str, str]) -> serve.Application:
    """What `import_path` names; `arguments` are settings by name, before those of the environment.

    Raises `ValueError` where they make no sense.
    """
    settings = load({name: str(value) for name, value in arguments.items()})

    def build() -> Application:
        telemetry.configure(settings.log_format)
        return create_app(_fitted(settings))

    @serve.deployment(name="Convoy")
    @serve.ingress(build)
    class Replica:
        """One copy of the service."""

        app: Application  # Ray Serve's

        def check_health(self) -> None:
            """What /readyz asks; a replica that fails this three times in a row is replaced; raises as that does."""
            self.app.state.served.check_ready()

    return Replica.bind()  # type: ignore[attr-defined]  # the decorator adds it


def _fitted(settings: Settings) -> Settings:
    """One worker, with as many threads as this replica was given cores: `num_cpus` limits nothing by itself.

    Nobody has the admin right: what one replica is told, the others would not hear of.
    """
    cpus = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
    threads = settings.threads or max(1, int(cpus))
    return settings.model_copy(update={"workers": 1, "threads": threads, "admin_keys_file": None})
