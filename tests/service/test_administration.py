"""Versions loaded, activated and unloaded while requests run, or nothing changed at all."""

from __future__ import annotations

import asyncio
import gc
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from service.administration import Administration
from service.app import create_app
from service.choices import FILE_NAME, Choice
from service.errors import Conflict, ModelNotFound, StorageFailed
from service.serving import ServedModels
from service.settings import Settings
from tests.conftest import write_colour_model

Steps = Callable[[Administration, ServedModels], Awaitable[None]]


@pytest.fixture
def root(models_dir: Path, tmp_path: Path) -> Path:
    """Versions 1 and 2 of colours, the default model, and version 1 of shades."""
    root = Path(shutil.copytree(models_dir, tmp_path / "models"))
    write_colour_model(root / "shades" / "1")
    return root


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[tuple[Administration, ServedModels]]:
    state = create_app(settings).state
    await state.served.start()
    try:
        yield state.administration, state.served
    finally:
        await state.served.stop()


@pytest.fixture
def play(settings: Settings, root: Path) -> Callable[[Steps], None]:
    """Runs steps on a service whose repository is the test's own."""
    own = settings.model_copy(update={"models_dir": root, "request_timeout_ms": 200})

    def played(steps: Steps) -> None:
        async def scenario() -> None:
            async with running(own) as (administration, models):
                await steps(administration, models)

        asyncio.run(scenario())

    return played


def active(models: ServedModels, name: str = "colours") -> str:
    return models.choose(name).loaded.identity.version


def test_an_older_version_takes_over_again_and_still_does_after_a_restart(play: Callable[[Steps], None]) -> None:
    async def roll_back(administration: Administration, models: ServedModels) -> None:
        assert active(models) == "2"
        await administration.activate("colours", "1")
        assert active(models) == "1"
        assert models.choose("colours", "2").loaded.identity.version == "2"

    async def after(_: Administration, models: ServedModels) -> None:
        assert active(models) == "1"

    play(roll_back)
    play(after)


def test_a_new_version_is_loaded_without_becoming_active_and_then_activated(
    play: Callable[[Steps], None], root: Path
) -> None:
    async def steps(administration: Administration, models: ServedModels) -> None:
        write_colour_model(root / "colours" / "3", scale=0.03)
        await administration.load("colours", "3")
        assert (active(models), models.choose("colours", "3").loaded.identity.version) == ("2", "3")
        await models.reload()
        assert active(models) == "2"
        await administration.activate("colours", "3")
        assert active(models) == "3"

    play(steps)


def test_an_unloaded_version_is_gone_until_it_is_loaded_again(play: Callable[[Steps], None]) -> None:
    async def unload(administration: Administration, models: ServedModels) -> None:
        engine = models.choose("colours", "1").loaded.engine
        await administration.unload("colours", "1")
        with pytest.raises(ModelNotFound):
            models.choose("colours", "1")
        assert models.repository.unloaded == {("colours", "1")}
        await asyncio.wait_for(asyncio.gather(*models._retiring.values()), 30)
        assert engine not in models._served

    async def load_again(administration: Administration, models: ServedModels) -> None:
        with pytest.raises(ModelNotFound):
            models.choose("colours", "1")
        await administration.load("colours", "1")
        assert models.choose("colours", "1").loaded.identity.version == "1"
        assert active(models) == "2"

    play(unload)
    play(load_again)


def test_the_active_version_is_not_unloaded_while_there_are_others(play: Callable[[Steps], None], root: Path) -> None:
    async def steps(administration: Administration, models: ServedModels) -> None:
        with pytest.raises(Conflict, match="activate another first"):
            await administration.unload("colours", "2")
        assert active(models) == "2"
        assert not (root / "colours" / FILE_NAME).exists()

    play(steps)


def test_the_last_version_of_the_default_model_stays_and_that_of_another_may_go(
    play: Callable[[Steps], None], root: Path
) -> None:
    shutil.rmtree(root / "colours" / "1")

    async def steps(administration: Administration, models: ServedModels) -> None:
        with pytest.raises(Conflict, match="The default model must have"):
            await administration.unload("colours", "2")
        await administration.unload("shades", "1")
        assert active(models) == "2"
        with pytest.raises(ModelNotFound):
            models.choose("shades")
        await administration.load("shades", "1")
        assert active(models, "shades") == "1"

    play(steps)


@pytest.mark.parametrize("verb", ["load", "activate"])
def test_a_version_that_can_not_serve_changes_nothing(play: Callable[[Steps], None], root: Path, verb: str) -> None:
    (write_colour_model(root / "colours" / "3") / "golden.npz").write_bytes(b"broken")

    async def steps(administration: Administration, models: ServedModels) -> None:
        before = models.choose("colours")
        write_colour_model(root / "shades" / "2")
        with pytest.raises(Conflict, match=r"stays as it was: version 3 can't serve: golden.npz is not the file"):
            await getattr(administration, verb)("colours", "3")
        assert models.choose("colours") is before
        assert active(models, "shades") == "1"  # what was found on the way is not served either
        assert not (root / "colours" / FILE_NAME).exists()
        models.check_ready()

    play(steps)


def test_a_refusal_names_the_place_in_our_words_and_the_log_has_the_librarys(
    play: Callable[[Steps], None], root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_colour_model(root / "colours" / "3") / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "labels": [1, "green", "blue"]}))

    async def steps(administration: Administration, _: ServedModels) -> None:
        with pytest.raises(Conflict) as raised:
            await administration.activate("colours", "3")
        assert raised.value.detail == (
            "Everything stays as it was: version 3 can't serve: "
            "metadata.json is not as it should be at labels.0; the log says why."
        )

    play(steps)
    assert "labels.0: Input should be a valid string" in caplog.text


@pytest.mark.parametrize(
    ("name", "version"), [("colours", "9"), ("nothing", "1"), ("..", "1"), ("", ""), ("colours", "..")]
)
@pytest.mark.parametrize("verb", ["load", "activate", "unload"])
def test_what_is_not_stored_is_not_found(play: Callable[[Steps], None], verb: str, name: str, version: str) -> None:
    async def steps(administration: Administration, _: ServedModels) -> None:
        with pytest.raises(ModelNotFound):
            await getattr(administration, verb)(name, version)

    play(steps)


def test_what_can_not_be_kept_is_not_done(play: Callable[[Steps], None], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_choice: Choice, _folder: Path) -> None:
        raise PermissionError(13, "Read-only file system")

    async def steps(administration: Administration, models: ServedModels) -> None:
        monkeypatch.setattr(Choice, "write", refuse)
        with pytest.raises(StorageFailed, match="can't be written to"):
            await administration.activate("colours", "1")
        assert active(models) == "2"

    play(steps)


def test_the_log_tells_what_took_over_and_of_what_can_not_no_more_than_is_so(
    play: Callable[[Steps], None], root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (write_colour_model(root / "colours" / "3") / "golden.npz").write_bytes(b"broken")
    caplog.set_level("INFO", "service")

    async def steps(administration: Administration, _: ServedModels) -> None:
        await administration.activate("colours", "1")
        with pytest.raises(Conflict):
            await administration.activate("colours", "3")

    play(steps)
    assert caplog.text.count("is active") == caplog.text.count("model colours/1 is active") == 1
    assert "model colours can't be served with version 3 active" in caplog.text
    assert "model colours is not served" not in caplog.text


def test_choices_that_can_not_be_read_any_more_are_told(play: Callable[[Steps], None], root: Path) -> None:
    async def steps(administration: Administration, models: ServedModels) -> None:
        (root / "colours" / FILE_NAME).write_text("{")
        with pytest.raises(Conflict, match=r"mend it: serving\.json must be"):
            await administration.activate("colours", "1")
        assert active(models) == "2"

    play(steps)


def test_a_loaded_version_that_was_damaged_since_is_not_chosen(play: Callable[[Steps], None], root: Path) -> None:
    async def steps(administration: Administration, models: ServedModels) -> None:
        (root / "colours" / "1" / "model.onnx").write_bytes(b"broken")
        with pytest.raises(Conflict, match=r"version 1 can't serve: model\.onnx is not the file"):
            await administration.activate("colours", "1")
        assert active(models) == "2"
        assert models.choose("colours", "1")
        assert not (root / "colours" / FILE_NAME).exists()

    play(steps)


def test_a_refusal_ends_in_one_full_stop(play: Callable[[Steps], None], root: Path) -> None:
    path = write_colour_model(root / "colours" / "3") / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "labels": ["red", "green", "blue", "white"]}))

    async def steps(administration: Administration, _: ServedModels) -> None:
        with pytest.raises(Conflict, match=r"again\.$"):
            await administration.activate("colours", "3")

    play(steps)


def test_choices_that_the_disk_does_not_give_are_told_too(play: Callable[[Steps], None], root: Path) -> None:
    async def steps(administration: Administration, models: ServedModels) -> None:
        (root / "colours" / FILE_NAME).mkdir()
        with pytest.raises(Conflict, match=r"mend it: Is a directory\.$"):
            await administration.activate("colours", "1")
        assert active(models) == "2"

    play(steps)


def test_a_change_is_made_to_its_end_though_its_client_gives_up(play: Callable[[Steps], None], root: Path) -> None:
    async def steps(administration: Administration, models: ServedModels) -> None:
        spread = asyncio.Event()

        async def tell() -> None:
            spread.set()

        administration.spread = tell
        change = asyncio.create_task(administration.activate("colours", "1"))
        await asyncio.sleep(0)  # it has begun
        change.cancel()
        with pytest.raises(asyncio.CancelledError):
            await change
        await asyncio.wait_for(spread.wait(), 30)
        assert active(models) == "1"
        assert json.loads((root / "colours" / FILE_NAME).read_text())["active"] == "1"

    play(steps)


def test_why_a_change_is_not_made_is_logged_where_its_client_gave_up(
    play: Callable[[Steps], None], root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (root / "colours" / "1" / "model.onnx").write_bytes(b"broken")

    async def steps(administration: Administration, _: ServedModels) -> None:
        caplog.clear()
        change = asyncio.create_task(administration.activate("colours", "1"))
        await asyncio.sleep(0)  # it has begun
        change.cancel()
        with pytest.raises(asyncio.CancelledError):
            await change
        async with asyncio.timeout(30):
            while not any(record.name == "service.administration" for record in caplog.records):
                await asyncio.sleep(0)

    play(steps)
    gc.collect()  # asyncio would tell of an exception that nobody has asked for
    told = [record.getMessage() for record in caplog.records if record.name in ("service.administration", "asyncio")]
    assert len(told) == 1
    assert told[0].startswith("a client gave up, and its change of models was not made: Everything stays as it was: ")


def test_a_model_is_loaded_and_unloaded_whole(play: Callable[[Steps], None], root: Path) -> None:
    async def steps(administration: Administration, models: ServedModels) -> None:
        await administration.unload_all("shades")
        assert json.loads((root / "shades" / FILE_NAME).read_text())["unloaded"] == ["1"]
        with pytest.raises(ModelNotFound):
            models.choose("shades")
        write_colour_model(root / "shades" / "2")
        await administration.load_all("shades")
        assert active(models, "shades") == "2"
        assert models.choose("shades", "1")
        with pytest.raises(Conflict):
            await administration.unload_all("colours")
        with pytest.raises(ModelNotFound):
            await administration.unload_all("nothing")

    play(steps)


def test_changes_at_the_same_time_are_made_one_after_the_other(play: Callable[[Steps], None], root: Path) -> None:
    write_colour_model(root / "colours" / "3", scale=0.03)

    async def steps(administration: Administration, models: ServedModels) -> None:
        await asyncio.gather(
            administration.activate("colours", "1"),
            administration.unload("colours", "2"),
            administration.unload("shades", "1"),
            models.reload(),
        )
        assert active(models) == "1"
        assert models.repository.unloaded == {("colours", "2"), ("shades", "1")}

    play(steps)
