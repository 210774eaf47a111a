"""``fedpartial store``: look at a federation's model store, roll a model back, and let a site withdraw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedpartial.cli.options import JsonOption
from fedpartial.cli.reply import USER_ERROR, Reply, answer

if TYPE_CHECKING:
    from fedpartial.cli.store_tables import Shown
    from fedpartial.server.model_store import ModelStore

STORE_HELP = "Folder of the federations' stores; at a server the one its local/store.json names. By default the user's."

StoreOption = Annotated[Path | None, typer.Option("--store", metavar="DIR", help=STORE_HELP)]
FederationOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Which federation; not needed where there is only one.")
]
SiteArgument = Annotated[str, typer.Argument(metavar="SITE", help="A site, or 'global' for the global model.")]

store_app = typer.Typer(
    name="store",
    help="Look at the models that a federation's server keeps, roll one back, or remove a site that withdraws.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@store_app.command("list")
def list_models(store: StoreOption = None, federation: FederationOption = None, as_json: JsonOption = False) -> None:
    """Show the model in use of every site, the global one, and which sites have withdrawn.

    Exit codes: 0 done, 2 something given is wrong, or the store is damaged.
    """
    from fedpartial.cli.store_tables import listing

    _answer(store, federation, as_json, listing, may_be_empty=True)


@store_app.command()
def show(
    site: SiteArgument, store: StoreOption = None, federation: FederationOption = None, as_json: JsonOption = False
) -> None:
    """Show all versions of a model, and check every file against its checksum.

    Exit codes: 0 all files are whole, 1 one is missing or damaged, 2 something given is wrong.
    """
    from fedpartial.cli.store_tables import versions

    _answer(store, federation, as_json, lambda found: versions(found, site))


@store_app.command()
def rollback(
    site: SiteArgument,
    version: Annotated[int, typer.Argument(min=1, metavar="VERSION", help="The version to use from now on.")],
    store: StoreOption = None,
    federation: FederationOption = None,
    as_json: JsonOption = False,
) -> None:
    """Use another version of a model. All versions stay; the next stage distils the one in use.

    Exit codes: 0 done, 1 the store could not be written, 2 something given is wrong and nothing was changed.
    """
    from fedpartial.cli.store_tables import one_line

    def roll_back(found: ModelStore) -> Shown:
        entry = found.roll_back(site, version)
        return one_line(asdict(entry), f"{site}: version {entry.version} is in use")

    _answer(store, federation, as_json, roll_back)


@store_app.command()
def remove(
    site: Annotated[str, typer.Argument(metavar="SITE", help="The site that withdraws.")],
    with_globals: Annotated[
        bool, typer.Option("--with-globals", help="Also delete the global models that learnt from it.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    store: StoreOption = None,
    federation: FederationOption = None,
    as_json: JsonOption = False,
) -> None:
    """Withdraw a site's consent: delete all versions of its model, and what was computed from them, for good.

    Copies elsewhere (backups, global models at other sites) are beyond this command. Exit codes: 0 done, 1 not
    confirmed, or the store could not be written, 2 something given is wrong and nothing was changed.
    """
    from fedpartial.cli.store_tables import withdrawal

    def withdraw(found: ModelStore) -> Shown:
        if not yes and found.history(site):
            also = " and the global models that learnt from it" if with_globals else ""
            typer.confirm(f"Delete all models of {site}{also} in {found.folder}?", abort=True, err=True)
        return withdrawal(found, found.remove(site, with_globals=with_globals))

    _answer(store, federation, as_json, withdraw)


@store_app.command()
def ledger(store: StoreOption = None, federation: FederationOption = None, as_json: JsonOption = False) -> None:
    """Show the messages, bytes and training of every stage, and of all of them so far.

    Exit codes: 0 done, 2 something given is wrong.
    """
    from fedpartial.cli.store_tables import loads

    _answer(store, federation, as_json, loads, may_be_empty=True)


def _answer(
    stores: Path | None,
    federation: str | None,
    as_json: bool,
    look: Callable[[ModelStore], Shown],
    *,
    may_be_empty: bool = False,
) -> None:
    """Find the store, do the work, print, and end with the exit code."""

    def work(reply: Reply) -> int:
        from fedpartial.cli.store_choice import NoStore, choose_store
        from fedpartial.cli.store_tables import one_line

        try:
            shown = look(choose_store(stores, federation))
        except NoStore as empty:
            if not may_be_empty:
                reply.fail(empty)
                return USER_ERROR
            shown = one_line({}, str(empty))
        shown.show(reply.console)
        reply.add(**shown.content)
        return shown.code

    answer(as_json, work)
