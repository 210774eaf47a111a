"""Build every component of a job offline, as the server and each site will, and say plainly what does not fit.

The simulator ends with exit code 0 when a site's configuration is wrong, and hides the message of a nested
constructor behind its own (design notes, section 6).
"""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from fedpartial.cli.job_folder import CLIENT_CONFIG, SERVER, SERVER_CONFIG, Job
from fedpartial.cli.simulator import RUN
from fedpartial.errors import ConfigError

BUILDER_FILES = {"component_builder.py", "class_utils.py", "class_loader.py", "json_scanner.py", "json_configer.py"}


def config_of(job: Job, participant: str) -> Path:
    """The configuration that the server or a site reads."""
    return job.config_path(participant, SERVER_CONFIG if participant == SERVER else CLIENT_CONFIG)


def build(job: Job, participant: str, folder: Path) -> dict[str, object]:
    """Components by id, as ``participant`` builds them; ``folder`` is for temporary files."""
    from nvflare.apis.workspace import Workspace
    from nvflare.private.fed.client.client_json_config import ClientJsonConfigurator
    from nvflare.private.fed.server.server_json_config import ServerJsonConfigurator

    root, path = folder / participant, config_of(job, participant)
    for name in ("startup", "local"):
        (root / name).mkdir(parents=True, exist_ok=True)
    base = ServerJsonConfigurator if participant == SERVER else ClientJsonConfigurator
    with _importable(path.parents[1] / "custom"), _translated(path):
        configurator = _naming(base, path)(
            workspace_obj=Workspace(root_dir=str(root), site_name=participant),
            config_file_name=str(path),
            args=_arguments(participant, root),
            app_root=str(path.parents[1]),
            kv_list=["secure_train=False"],
        )
        configurator.configure()
    return configurator.runner_config.components


def json_error(path: Path, field: str, got: object, expected: str) -> ConfigError:
    return ConfigError(where=str(path), field=field, got=got, expected=expected, remedy="Correct the job's JSON.")


def _arguments(participant: str, root: Path) -> Namespace:
    nowhere = {"sp_scheme": "tcp", "sp_target": "localhost:0", "parent_url": "tcp://localhost:0"}
    return Namespace(job_id=RUN, workspace=str(root), client_name=participant, **nowhere)


def _naming(base: type, path: Path) -> type:
    """FLARE's configurator, except that an error names its component and keeps the real message."""

    class NamingConfigurator(base):
        def authorize_and_build_component(self, config_dict, config_ctx, node):
            try:
                return super().authorize_and_build_component(config_dict, config_ctx, node)
            except Exception as error:
                raise _component_error(config_dict, node.path(), path, error) from error

    return NamingConfigurator


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    """FLARE wraps every error in its own, and prints and logs it; let the ConfigError inside out, or make one."""
    from nvflare.fuel.common.excepts import ConfigError as FlareConfigError

    try:
        with contextlib.redirect_stdout(io.StringIO()), _no_logging():
            yield
    except (FlareConfigError, ValueError, TypeError, RuntimeError, OSError) as error:
        chain = _chain(error)
        named = next((inner for inner in chain if isinstance(inner, ConfigError)), None)
        raise named or json_error(path, "(file)", _message(chain[-1]), "a FLARE configuration") from None


@contextlib.contextmanager
def _importable(custom: Path) -> Iterator[None]:
    """The job's own code comes last on the path, as in FLARE."""
    sys.path.append(str(custom))
    try:
        yield
    finally:
        sys.path.remove(str(custom))


@contextlib.contextmanager
def _no_logging() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _component_error(config: object, place: str, path: Path, error: Exception) -> ConfigError:
    """The first error of the chain that FLARE's builder did not make, as an error of this component."""
    chain = _chain(error)
    real = next((inner for inner in chain if not _made_by_builder(inner)), chain[-1])
    given = config if isinstance(config, dict) else {}
    field = f"component {given.get('id') or given.get('path') or place!r}"
    if isinstance(real, ConfigError):
        field = f"{field}: {real.field}"
        return ConfigError(where=str(path), field=field, got=real.got, expected=real.expected, remedy=real.remedy)
    return json_error(path, field, _message(real), _signature(given, str(real)) or "a class and arguments it takes")


def _chain(error: BaseException) -> list[BaseException]:
    """The error, then what it was raised from or while handling."""
    chain = [error]
    while inner := chain[-1].__cause__ or (None if chain[-1].__suppress_context__ else chain[-1].__context__):
        chain.append(inner)
    return chain


def _made_by_builder(error: BaseException) -> bool:
    """Whether FLARE's builder itself raised it, so that an inner error says more."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and Path(trace.tb_frame.f_code.co_filename).name in BUILDER_FILES


def _signature(config: dict, message: str) -> str | None:
    """The arguments of the class whose constructor complains, found by its name in the message."""
    from nvflare.fuel.utils.class_loader import load_class

    for given in (config, *(config.get("args") or {}).values()):
        path = given.get("path") if isinstance(given, dict) else None
        if path and message.startswith(f"{path.rpartition('.')[2]}.__init__()"):
            names = ", ".join(inspect.signature(load_class(path)).parameters) or "none"
            return f"arguments of {path}: {names}"
    return None


def _message(error: BaseException) -> str:
    return str(error) if isinstance(error, TypeError | ValueError) else f"{type(error).__name__}: {error}"
