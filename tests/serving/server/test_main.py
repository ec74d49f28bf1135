import asyncio
import contextlib
from types import SimpleNamespace

from serving.server import __main__ as program
from tests.serving.server_process import eventually

CONFIG = 'model_config_list { config { name: "NAME" base_path: "/models/m" model_platform: "tensorflow" } }'


class FakeManager:
    def __init__(self):
        self.names, self.config = [], None

    async def configure_soon(self, config):
        self.config = config
        self.names.append([entry.name for entry in config.model_config_list.config])


def test_a_configuration_that_changes_while_the_server_starts_is_read(tmp_path):
    file = tmp_path / "models.config"
    file.write_text(CONFIG.replace("NAME", "first"))
    given = SimpleNamespace(model_config_file=str(file), model_config_file_poll_wait_seconds=0.01)
    manager = FakeManager()
    manager.config = program.model_config(given)
    file.write_text(CONFIG.replace("NAME", "second"))

    async def watch():
        watching = asyncio.create_task(program._watch(manager, given))
        await asyncio.to_thread(eventually, lambda: manager.names == [["second"]])
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching

    asyncio.run(watch())
