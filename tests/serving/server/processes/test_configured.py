import asyncio
import concurrent.futures
import contextlib
from types import SimpleNamespace

from serving.server.processes import configured
from tests.serving.server_process import eventually

CONFIG = 'model_config_list { config { name: "NAME" base_path: "/models/m" model_platform: "tensorflow" } }'


class FakeManager:
    def __init__(self):
        self.names, self.config = [], None

    def configure_soon(self, config):
        self.config = config
        done = concurrent.futures.Future()
        done.set_result(None)
        self.names.append([entry.name for entry in config.model_config_list.config])
        return done


def test_a_configuration_that_changes_while_the_server_starts_is_read(tmp_path):
    file = tmp_path / "models.config"
    file.write_text(CONFIG.replace("NAME", "first"))
    given = SimpleNamespace(model_config_file=str(file), model_config_file_poll_wait_seconds=0.01)
    manager = FakeManager()
    manager.config = configured.model_config(given)
    file.write_text(CONFIG.replace("NAME", "second"))

    async def watch():
        watching = asyncio.create_task(configured._watch(manager, given))
        await asyncio.to_thread(eventually, lambda: manager.names == [["second"]])
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching

    asyncio.run(watch())
