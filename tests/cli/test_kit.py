"""fedpartial setup-kit: which kit it is, what is written, and that nothing edited is lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from small_hospitals import write_hospitals
from typer.testing import CliRunner

from fedpartial.cli.main import app
from fedpartial.cli.policy import POLICIES
from fedpartial.server.store_place import store_folder
from fedpartial.sites import read_site

STARTUP = {
    "server": ("fed_server.json", {"servers": [{"name": "fedpartial"}]}),
    "liver": ("fed_client.json", {"client": {"fqsn": "relay.liver"}}),
    "lead": ("fed_admin.json", {"admin": {"username": "lead@consortium.org"}}),
}


@pytest.fixture
def kits(tmp_path: Path) -> Path:
    for name, (file, content) in STARTUP.items():
        (tmp_path / name / "startup").mkdir(parents=True)
        (tmp_path / name / "local").mkdir()
        (tmp_path / name / "startup" / file).write_text(json.dumps(content))
    return tmp_path


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["setup-kit", *map(str, arguments)])
    return result.exit_code, result.output


def local(kit: Path) -> dict[str, dict]:
    return {path.name: json.loads(path.read_text()) for path in (kit / "local").rglob("*.json")}


def test_the_server_gets_its_stores_inside_its_kit(kits):
    code, output = run(kits / "server")
    assert code == 0, output
    written = local(kits / "server")
    assert set(written) == {"resources.json", "authorization.json", "store.json"}
    manager = next(c for c in written["resources.json"]["components"] if c["id"] == "job_manager")
    assert manager["args"]["uri_root"] == str(kits / "server" / "store" / "jobs")
    snapshots = written["resources.json"]["snapshot_persistor"]["args"]["storage"]["args"]["root_dir"]
    assert snapshots == str(kits / "server" / "store" / "snapshots")
    assert "{KIT}" not in json.dumps(written)


def test_the_models_of_a_federation_lie_in_the_servers_kit_wherever_it_is_moved(kits):
    run(kits / "server")
    moved = (kits / "server").rename(kits / "moved")
    assert store_folder(moved / "local", "abdomen") == kits.resolve() / "moved" / "store" / "federations" / "abdomen"


def test_a_place_of_models_that_somebody_has_chosen_stays(kits):
    (kits / "server" / "local" / "store.json").write_text('{"folder": "/srv/models"}')
    assert run(kits / "server", "--force")[0] == 0
    assert store_folder(kits / "server" / "local", "abdomen") == Path("/srv/models/abdomen")


def test_a_site_gets_the_policy_and_a_checked_site_file_with_absolute_paths(kits):
    file = write_hospitals(kits) / "liver.json"
    code, output = run(kits / "liver", "--site-file", file)
    assert code == 0, output
    assert "site liver: policy reviewed" in output
    written = local(kits / "liver")
    shipped = {path.name: json.loads(path.read_text()) for path in (POLICIES / "site").glob("*.json")}
    assert {name: written[name] for name in shipped} == shipped
    assert written["liver.json"]["data_root"] == str((kits / "data" / "liver").resolve())
    assert Path(written["liver.json"]["cache_dir"]).is_absolute()


def test_an_administrators_kit_needs_nothing(kits):
    code, output = run(kits / "lead")
    assert code == 0
    assert "lead@consortium.org" in output
    assert not local(kits / "lead")


def test_the_same_again_changes_nothing(kits):
    run(kits / "liver")
    code, output = run(kits / "liver")
    assert code == 0
    assert "resources.json: as it was" in output


def test_another_policy_is_shown_and_needs_force(kits):
    run(kits / "liver")
    before = local(kits / "liver")
    code, output = run(kits / "liver", "--policy", "byoc")
    assert code == 2
    assert '+      "byoc": "any"' in output
    assert "--force" in output
    assert local(kits / "liver") == before
    assert run(kits / "liver", "--policy", "byoc", "--force")[0] == 0
    assert local(kits / "liver")["authorization.json"]["permissions"]["lead"]["byoc"] == "any"
    assert local(kits / "liver")["privacy.json"] == before["privacy.json"]


def test_what_flare_itself_prepared_is_replaced_without_force(kits):
    folder = kits / "server" / "local"
    default = {"class_allow_list": ["a.b"], "components": [], "snapshot_persistor": {"args": "/tmp/nvflare"}}
    (folder / "resources.json.default").write_text(json.dumps(default))
    (folder / "resources.json").write_text(json.dumps({**default, "snapshot_persistor": {"args": "elsewhere"}}))
    assert run(kits / "server")[0] == 0
    (folder / "resources.json").write_text(json.dumps({**default, "class_allow_list": ["edited.by.hand"]}))
    assert run(kits / "server")[0] == 2


@pytest.fixture
def own(kits) -> Path:
    """A policy folder of somebody's own, for now the reviewed one."""
    return Path(shutil.copytree(POLICIES / "site", kits / "own"))


def edit(path: Path, how) -> None:
    content = json.loads(path.read_text())
    how(content)
    path.write_text(json.dumps(content))


def test_a_folder_can_be_the_policy(kits, own):
    edit(own / "resources.json", lambda c: c.update(class_allow_list=[]))
    (own / "authorization.json").unlink()
    code, output = run(kits / "liver", "--policy", own)
    assert code == 0, output
    assert local(kits / "liver")["resources.json"]["class_allow_list"] == []
    assert "authorization.json: not in the policy, stays FLARE's default" in output


def filters(content: dict) -> list[dict]:
    return content["scopes"][0]["task_result_filters"]


PRIVACY, RESOURCES, ALL = "privacy.json", "resources.json", "KnownContent, NamedParts, ReportedMetrics"
WEAK = {
    "no scope": (PRIVACY, lambda c: (c.clear(), c.update(scopes=[])), ": default_scope", ALL),
    "no default": (PRIVACY, lambda c: c.pop("default_scope"), ": default_scope", ALL),
    "a filter less": (PRIVACY, lambda c: filters(c).pop(1), ": default_scope", "none with NamedParts'"),
    "a filter of data": (PRIVACY, lambda c: filters(c)[0].update(direction="in"), ": default_scope", "KnownContent"),
    "wrong arguments": (PRIVACY, lambda c: filters(c)[2]["args"].update(min_cases=1), "", "min_cases"),
    "a missing class": (PRIVACY, lambda c: filters(c)[0].update(path="fedpartial.flare.nowhere.X"), "", "nowhere"),
    "another default": (PRIVACY, lambda c: c.update(default_scope="other"), "", "'other' does not exist"),
    "no allow list": (RESOURCES, lambda c: c.pop("class_allow_list"), ": class_allow_list", "FLARE's own list"),
    "every class": (RESOURCES, lambda c: c["class_allow_list"].append("*"), ": class_allow_list", "'*'"),
    "not enforced": (RESOURCES, lambda c: c.update(class_list_enforcement_mode="warn"), "", "'enforce'"),
}


@pytest.mark.parametrize("weakness", WEAK)
def test_a_policy_that_keeps_less_than_promised_is_named_and_needs_force(kits, own, weakness):
    file, weaken, *said = WEAK[weakness]
    edit(own / file, weaken)
    code, output = run(kits / "liver", "--policy", own)
    assert code == 2
    assert "Traceback" not in output
    for part in (f"error: {kits / 'liver' / 'local' / file}: ", *said, "--force"):
        assert part in output
    assert not local(kits / "liver")
    code, output = run(kits / "liver", "--policy", own, "--force")
    assert code == 0
    assert f"warning: {kits / 'liver' / 'local' / file}: " in output
    assert local(kits / "liver")[file] == json.loads((own / file).read_text())


def test_a_folder_with_an_empty_privacy_file_only_is_no_policy(kits, own):
    (own / "privacy.json").write_text('{"scopes": []}')
    for name in ("resources.json", "authorization.json"):
        (own / name).unlink()
    code, output = run(kits / "liver", "--policy", own)
    assert code == 2
    assert ALL in output
    assert 'class_allow_list: got "FLARE\'s own list"' in output


def test_a_policy_is_judged_together_with_what_the_kit_has_already(kits, own):
    run(kits / "liver")
    for name in ("resources.json", "authorization.json"):
        (own / name).unlink()
    code, output = run(kits / "liver", "--policy", own)
    assert code == 0, output
    assert "resources.json: not in the policy, stays as it was" in output


def test_a_key_that_stands_twice_is_refused(kits, own):
    text = (own / "resources.json").read_text()
    (own / "resources.json").write_text(text.replace("{", '{"class_allow_list": ["*"], ', 1))
    code, output = run(kits / "liver", "--policy", own)
    assert (code, "'class_allow_list' stands twice" in output) == (2, True)


@pytest.mark.parametrize(
    ("kit", "content", "field"),
    [
        ("liver", {"client": {}}, "client.fqsn"),
        ("liver", {}, "client.fqsn"),
        ("liver", {"client": {"fqsn": 1}}, "client.fqsn"),
        ("lead", {"admin": {}}, "admin.username"),
        ("lead", {"admin": None}, "admin.username"),
    ],
)
def test_a_kit_without_a_name_is_no_kit(kits, kit, content, field):
    (kits / kit / "startup" / STARTUP[kit][0]).write_text(json.dumps(content))
    code, output = run(kits / kit)
    assert code == 2
    assert f"{STARTUP[kit][0]}: {field}: got" in output
    assert not local(kits / kit)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "no startup kit"),
        (("liver", "--policy", "lax"), "one of reviewed, byoc"),
        (("server", "--site-file", "my sites/liver.json"), "only a site has a site file"),
        (("liver", "--site-file", "my sites/spleen.json"), "expected liver.json"),
        (("liver", "--site-file", "my sites/absent/liver.json"), "no such file"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_written(kits, monkeypatch, arguments, message):
    write_hospitals(kits)
    monkeypatch.chdir(kits)
    code, output = run(*arguments)
    assert code == 2
    assert message in output
    assert not local(kits / "liver") | local(kits / "server")


def test_a_pool_brings_the_files_of_its_sites(kits):
    """Without them the site would find its pool's file and none of the data."""
    folder = write_hospitals(kits)
    pool = folder / "liver.json"
    pool.rename(folder / "north.json")
    pool.write_text('{"pool": ["north"]}')
    code, output = run(kits / "liver", "--site-file", pool)
    assert code == 0, output
    assert read_site("liver", kits / "liver" / "local").members[0].name == "north"
    assert Path(local(kits / "liver")["north.json"]["data_root"]).is_absolute()


@pytest.mark.parametrize("pool", ['["../liver"]', '["gone"]', '"liver"', "[]"])
def test_a_pool_of_what_is_not_there_is_refused(kits, pool):
    file = write_hospitals(kits) / "liver.json"
    file.write_text(f'{{"pool": {pool}}}')
    code, output = run(kits / "liver", "--site-file", file)
    assert code == 2, output
    assert "pool" in output
    assert not (kits / "liver" / "local" / "sites").exists()


def test_a_faulty_site_file_is_named_by_its_own_path(kits):
    file = write_hospitals(kits) / "liver.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "datalist": "absent.json"}))
    code, output = run(kits / "liver", "--site-file", file)
    assert code == 2
    assert str(file) in output
    assert "datalist" in output
    assert not local(kits / "liver")
