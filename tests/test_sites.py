"""Site files: what a hospital writes, what it is told when that is wrong, and the phantom as a fallback."""

import json
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from fedpartial.errors import ConfigError
from fedpartial.phantom import PHANTOM_POOLS, PHANTOM_SITES
from fedpartial.presets import get_preset
from fedpartial.sites import (
    ALLOWED,
    CACHE_VARIABLE,
    DEVICE_VARIABLE,
    REQUIRED,
    SitePool,
    default_cache_dir,
    phantom_site,
    read_site,
    read_site_file,
    site_file,
)

HOSPITAL = "hospital-1"


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch, tmp_path):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv(DEVICE_VARIABLE, raising=False)


@pytest.fixture
def config_dir(tmp_path):
    """The ``local`` folder of a site's workspace, and data beside it."""
    local = tmp_path / "local"
    (local / "sites").mkdir(parents=True)
    data = tmp_path / "data"
    data.mkdir()
    (data / "datalist.json").write_text("{}", encoding="utf-8")
    (data / "other.json").write_text("{}", encoding="utf-8")
    return local


def good(config_dir, **changes):
    """A correct site file with some values changed; None of Python removes a key."""
    given = {"labels": {"1": "liver", "2": "liver_tumor"}, "data_root": str(config_dir.parent / "data"), **changes}
    return {key: value for key, value in given.items() if value is not REMOVED}


REMOVED = object()


def write(config_dir, content, name=HOSPITAL):
    path = site_file(config_dir, name)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def refused(config_dir, *, field, name=HOSPITAL):
    """The ConfigError that reading the site raises; its message tells file, field, got, expected and remedy."""
    with pytest.raises(ConfigError) as caught:
        read_site(name, config_dir)
    error = caught.value
    assert (error.where, error.field) == (str(site_file(config_dir, name)), field)
    for part in (error.where, error.field, repr(error.got), error.expected, error.remedy):
        assert part
        assert part in str(error)
    return error


# --- a file that is right -------------------------------------------------------------------------


def test_the_shortest_site_file(config_dir):
    path = write(config_dir, good(config_dir))
    site = read_site(HOSPITAL, config_dir)
    data = config_dir.parent / "data"
    assert (site.name, site.source, site.where) == (HOSPITAL, "site file", str(path))
    assert site.labels == {1: "liver", 2: "liver_tumor"}
    assert (site.data_root, site.datalist) == (data, data / "datalist.json")
    assert (site.device, site.num_workers) == ("auto", 0)
    assert site.cache_dir == config_dir.parent / "cache"


def test_a_site_file_that_says_everything(config_dir):
    given = good(
        config_dir,
        labels={"0": "background", "10": "spleen"},
        datalist="other.json",
        device="cuda:1",
        num_workers=3,
        cache_dir=str(config_dir.parent / "mine"),
        model_dir=str(config_dir.parent / "models"),
    )
    assert set(given) == set(ALLOWED)
    write(config_dir, given)
    site = read_site(HOSPITAL, config_dir)
    assert site.labels == {0: "background", 10: "spleen"}
    assert site.datalist == config_dir.parent / "data" / "other.json"
    assert (site.device, site.num_workers) == ("cuda:1", 3)
    assert site.cache_dir == config_dir.parent / "mine"
    assert site.model_dir == config_dir.parent / "models"


def test_relative_paths_start_at_the_site_file_and_the_datalist_at_the_data(config_dir, monkeypatch, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)  # the current directory must not matter
    write(config_dir, good(config_dir, data_root="../../data", datalist="other.json", cache_dir="cases"))
    site = read_site(HOSPITAL, config_dir)
    assert site.data_root.resolve() == config_dir.parent / "data"
    assert site.datalist.resolve() == config_dir.parent / "data" / "other.json"
    assert site.cache_dir == config_dir / "sites" / "cases"
    assert all(path.is_absolute() for path in (site.data_root, site.datalist, site.cache_dir))


def test_absolute_datalist_and_home_folder(config_dir, monkeypatch):
    monkeypatch.setenv("HOME", str(config_dir.parent))
    datalist = config_dir.parent / "lists.json"
    datalist.write_text("{}", encoding="utf-8")
    write(config_dir, good(config_dir, data_root="~/data", datalist=str(datalist), cache_dir="~/cases"))
    site = read_site(HOSPITAL, config_dir)
    assert site.data_root == config_dir.parent / "data"
    assert site.datalist == datalist
    assert site.cache_dir == config_dir.parent / "cases"


def test_a_relative_config_dir_gives_absolute_paths(config_dir, monkeypatch):
    write(config_dir, good(config_dir, data_root="../../data", cache_dir="cases"))
    monkeypatch.chdir(config_dir.parent)
    site = read_site(HOSPITAL, Path("local"))
    assert all(path.is_absolute() for path in (site.data_root, site.datalist, site.cache_dir))


def test_a_site_cannot_be_changed(config_dir):
    write(config_dir, good(config_dir))
    with pytest.raises(FrozenInstanceError):
        read_site(HOSPITAL, config_dir).device = "cpu"


# --- a file that is wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["", "{", "{'labels': 1}", '{"labels": {"1": "liver"},}'])
def test_what_is_not_json_is_refused_with_an_example(config_dir, content):
    write(config_dir, content)
    assert '"labels"' in refused(config_dir, field="(file)").remedy


def test_what_is_not_text_is_refused(config_dir):
    site_file(config_dir, HOSPITAL).write_bytes(b'{"labels": "\xff\xfe"}')
    refused(config_dir, field="(file)")


def test_a_folder_in_place_of_the_file_is_refused(config_dir):
    site_file(config_dir, HOSPITAL).mkdir()
    refused(config_dir, field="(file)")


@pytest.mark.parametrize("content", ["[]", '"liver"', "null", "1"])
def test_what_is_not_an_object_is_refused(config_dir, content):
    write(config_dir, content)
    refused(config_dir, field="(file)")


@pytest.mark.parametrize("key", ["lables", "Labels", "dataroot", "batch_size", ""])
def test_an_unknown_key_is_refused_with_the_known_ones(config_dir, key):
    write(config_dir, {**good(config_dir), key: 1})
    with pytest.raises(ConfigError) as caught:
        read_site(HOSPITAL, config_dir)
    assert caught.value.field == key
    assert str(site_file(config_dir, HOSPITAL)) in str(caught.value)
    for known in ALLOWED:
        assert known in caught.value.expected


@pytest.mark.parametrize("key", REQUIRED)
def test_a_missing_key_is_refused(config_dir, key):
    write(config_dir, good(config_dir, **{key: REMOVED}))
    assert key in refused(config_dir, field=key).remedy


@pytest.mark.parametrize("value", [None, 1, "", [], {"a": "b"}, True])
@pytest.mark.parametrize("field", ["data_root", "datalist", "cache_dir"])
def test_a_path_must_be_text(config_dir, field, value):
    write(config_dir, good(config_dir, **{field: value}))
    assert refused(config_dir, field=field).got == value


def test_a_data_root_that_is_not_there_is_refused(config_dir):
    missing = config_dir.parent / "not mounted"
    write(config_dir, good(config_dir, data_root=str(missing)))
    assert refused(config_dir, field="data_root").got == str(missing)


def test_a_data_root_that_is_a_file_is_refused(config_dir):
    file = config_dir.parent / "data" / "datalist.json"
    write(config_dir, good(config_dir, data_root=str(file)))
    assert refused(config_dir, field="data_root").got == str(file)


def test_a_home_folder_of_nobody_is_refused(config_dir):
    write(config_dir, good(config_dir, data_root="~there-is-no-such-user/data"))
    refused(config_dir, field="data_root")


def test_a_datalist_that_is_not_there_is_refused(config_dir):
    write(config_dir, good(config_dir, datalist="missing.json"))
    error = refused(config_dir, field="datalist")
    assert error.got == str(config_dir.parent / "data" / "missing.json")
    assert all(key in error.remedy for key in ("training", "validation", "testing"))


def test_the_datalist_that_is_meant_by_default_must_be_there(config_dir):
    (config_dir.parent / "data" / "datalist.json").unlink()
    write(config_dir, good(config_dir))
    assert refused(config_dir, field="datalist").got == str(config_dir.parent / "data" / "datalist.json")


def test_a_datalist_that_is_a_folder_is_refused(config_dir):
    (config_dir.parent / "data" / "lists").mkdir()
    write(config_dir, good(config_dir, datalist="lists"))
    refused(config_dir, field="datalist")


@pytest.mark.parametrize("value", [None, {}, [], ["liver"], "liver", 1])
def test_labels_must_be_an_object_with_something_in_it(config_dir, value):
    write(config_dir, good(config_dir, labels=value))
    assert refused(config_dir, field="labels").got == value


@pytest.mark.parametrize("raw", ["one", "-1", "1.0", "1e0", "", " 1", "+1", "1_0", "²", "\u0661", "0x1"])
def test_a_raw_value_must_be_an_integer(config_dir, raw):
    write(config_dir, good(config_dir, labels={"1": "liver", raw: "spleen"}))
    assert refused(config_dir, field=f"labels.{raw}").got == "spleen"


@pytest.mark.parametrize("name", [None, 1, True, ["liver"], {"name": "liver"}])
def test_a_class_name_must_be_text(config_dir, name):
    write(config_dir, good(config_dir, labels={"1": name}))
    assert refused(config_dir, field="labels.1").got == name


def test_a_raw_value_written_in_two_ways_is_refused(config_dir):
    write(config_dir, good(config_dir, labels={"1": "liver", "01": "spleen"}))
    assert refused(config_dir, field="labels.01").got == "spleen"


def test_a_raw_value_written_twice_is_refused(config_dir):
    """JSON readers keep the second value in silence: liver would be trained as spleen."""
    content = json.dumps(good(config_dir, labels={"1": "liver", "?": "spleen"})).replace('"?"', '"1"')
    assert content.count('"1"') == 2
    write(config_dir, content)
    with pytest.raises(ConfigError) as caught:
        read_site(HOSPITAL, config_dir)
    assert caught.value.where == str(site_file(config_dir, HOSPITAL))
    assert "'1' stands twice" in caught.value.got


@pytest.mark.parametrize("value", [None, 0, True, ["cpu"]])
def test_a_device_must_be_text(config_dir, value):
    write(config_dir, good(config_dir, device=value))
    assert refused(config_dir, field="device").got == value


@pytest.mark.parametrize("value", [None, -1, 1.0, 2.5, "2", True, [1]])
def test_num_workers_must_be_a_whole_number_of_at_least_zero(config_dir, value):
    write(config_dir, good(config_dir, num_workers=value))
    error = refused(config_dir, field="num_workers")
    assert error.got == value
    assert type(error.got) is type(value)


# --- environment variables ------------------------------------------------------------------------


def test_the_cache_lies_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "there"))
    assert default_cache_dir() == tmp_path / "there"


def test_a_relative_cache_becomes_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(CACHE_VARIABLE, "there")
    assert default_cache_dir() == tmp_path / "there"


@pytest.mark.parametrize("value", ["", None])
def test_without_the_variable_the_cache_is_the_users(monkeypatch, tmp_path, value):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path))
    if value is None:
        monkeypatch.delenv(CACHE_VARIABLE)
    else:
        monkeypatch.setenv(CACHE_VARIABLE, value)
    cache = default_cache_dir()
    assert cache.is_absolute()
    assert tmp_path in cache.parents
    assert "fedpartial" in cache.parts


def test_the_file_says_more_about_its_cache_than_the_environment(config_dir):
    write(config_dir, good(config_dir, cache_dir="mine"))
    assert read_site(HOSPITAL, config_dir).cache_dir == config_dir / "sites" / "mine"


def test_the_environment_says_more_about_the_device_than_the_file(config_dir, monkeypatch):
    write(config_dir, good(config_dir, device="cuda:1"))
    before = read_site(HOSPITAL, config_dir)
    monkeypatch.setenv(DEVICE_VARIABLE, "cpu")
    site = read_site(HOSPITAL, config_dir)
    assert site.device == "cpu"
    assert {key for key, value in vars(site).items() if value != getattr(before, key)} == {"device"}


def test_an_empty_device_variable_says_nothing(config_dir, monkeypatch):
    monkeypatch.setenv(DEVICE_VARIABLE, "")
    write(config_dir, good(config_dir, device="cuda:1"))
    assert read_site(HOSPITAL, config_dir).device == "cuda:1"


def test_the_device_variable_holds_for_the_phantom_too(config_dir, monkeypatch):
    monkeypatch.setenv(DEVICE_VARIABLE, "cuda:7")
    assert read_site(next(iter(PHANTOM_SITES)), config_dir).device == "cuda:7"


# --- the phantom ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PHANTOM_SITES)
def test_a_site_of_the_phantom_needs_no_file(config_dir, name, tmp_path):
    site = read_site(name, config_dir)
    assert site == phantom_site(name)
    assert (site.name, site.source, site.device) == (name, "phantom", "auto")
    assert site.labels == dict(PHANTOM_SITES[name].labels)
    assert site.cache_dir == tmp_path / "cache"
    assert tmp_path / "cache" in site.data_root.parents
    assert site.datalist.parent == site.data_root
    assert name in site.where


def test_phantom_sites_do_not_share_a_folder():
    roots = [phantom_site(name).data_root for name in PHANTOM_SITES]
    assert len(roots) > 1
    assert len(set(roots)) == len(roots)


@pytest.mark.parametrize("name", sorted(set(PHANTOM_SITES) - {"public"}))
def test_the_labels_of_the_phantom_are_classes_of_its_preset(name):
    site = phantom_site(name)
    for merge_lesions in (False, True):
        preset = "phantom_mmds" if name == "amos" else "phantom"
        space = get_preset(preset, merge_lesions=merge_lesions).label_space
        assert space.table(site.labels, where=site.where).labelled


def test_changing_the_labels_of_a_site_leaves_the_phantom_alone():
    name = next(iter(PHANTOM_SITES))
    before = dict(PHANTOM_SITES[name].labels)
    phantom_site(name).labels[99] = "spleen"
    assert dict(PHANTOM_SITES[name].labels) == before
    assert phantom_site(name).labels == before


def test_a_file_comes_before_the_phantom(config_dir):
    name = next(iter(PHANTOM_SITES))
    write(config_dir, good(config_dir, labels={"7": "spleen"}), name=name)
    site = read_site(name, config_dir)
    assert site.source == "site file"
    assert site.labels == {7: "spleen"}


def test_a_wrong_file_is_not_replaced_by_the_phantom(config_dir):
    name = next(iter(PHANTOM_SITES))
    write(config_dir, "{", name=name)
    refused(config_dir, field="(file)", name=name)


# --- pools ------------------------------------------------------------------------------------------


@pytest.fixture
def neighbours(config_dir):
    """Two sites whose files lie beside each other."""
    write(config_dir, good(config_dir), name="liver")
    write(config_dir, good(config_dir, labels={"1": "spleen"}), name="spleen")
    return config_dir


def test_a_pool_holds_its_members_as_their_own_files_describe_them(neighbours):
    path = write(neighbours, {"pool": ["spleen", "liver"]}, name="central")
    pool = read_site("central", neighbours)
    assert isinstance(pool, SitePool)
    assert (pool.name, pool.source, pool.where) == ("central", "site file", str(path))
    assert (pool.device, pool.num_workers) == ("auto", 0)
    assert pool.members == tuple(read_site(name, neighbours) for name in ("liver", "spleen"))


def test_a_pool_says_where_it_trains_and_its_members_do_not(neighbours, monkeypatch):
    write(neighbours, {"pool": ["liver"], "device": "cuda:1", "num_workers": 3}, name="central")
    pool = read_site("central", neighbours)
    assert (pool.device, pool.num_workers) == ("cuda:1", 3)
    monkeypatch.setenv(DEVICE_VARIABLE, "cpu")
    assert read_site("central", neighbours).device == "cpu"


def test_a_site_is_its_own_only_member(neighbours):
    site = read_site("liver", neighbours)
    assert site.members == (site,)


@pytest.mark.parametrize(
    "names",
    [None, [], {}, "liver", ["liver", 1], ["liver", "liver"], ["liver", "lever"], ["liver", "central"], ["central"]],
    ids=repr,
)
def test_a_pool_of_anything_but_different_neighbours_is_refused(neighbours, names):
    write(neighbours, {"pool": names}, name="central")
    assert refused(neighbours, field="pool", name="central").got == names


def test_a_pool_of_pools_is_refused_also_when_they_name_each_other(neighbours):
    write(neighbours, {"pool": ["liver", "other"]}, name="central")
    for other in (["spleen"], ["central"]):
        write(neighbours, {"pool": other}, name="other")
        assert refused(neighbours, field="pool", name="central").got == ["other"]


@pytest.mark.parametrize("key", ["labels", "data_root", "datalist", "cache_dir", "members"])
def test_a_pool_has_no_data_of_its_own(neighbours, key):
    write(neighbours, {"pool": ["liver"], key: "x"}, name="central")
    error = refused(neighbours, field=key, name="central")
    assert "pool, device, num_workers" in error.expected


@pytest.mark.parametrize(("field", "value"), [("device", None), ("num_workers", -1)])
def test_other_values_of_a_pool_are_checked_as_those_of_a_site(neighbours, field, value):
    write(neighbours, {"pool": ["liver"], field: value}, name="central")
    assert refused(neighbours, field=field, name="central").got == value


def test_a_fault_of_a_member_names_the_members_file(neighbours):
    write(neighbours, {"pool": ["liver", "spleen"]}, name="central")
    path = write(neighbours, good(neighbours, labels={}), name="spleen")
    with pytest.raises(ConfigError) as caught:
        read_site("central", neighbours)
    assert (caught.value.where, caught.value.field) == (str(path), "labels")


def test_the_pool_of_the_phantom_holds_the_sites_that_train(config_dir, monkeypatch):
    partial = set(PHANTOM_SITES) - {"external", "public", "full", "amos"}
    assert {
        "central": tuple(sorted(partial)),
        "psmos_central": tuple(sorted(partial | {"full"})),
        "mmds_central": tuple(sorted(partial | {"amos"})),
    } == PHANTOM_POOLS
    monkeypatch.setenv(DEVICE_VARIABLE, "cuda:7")
    pool = read_site("central", config_dir)
    assert (pool.name, pool.source, pool.device) == ("central", "phantom", "cuda:7")
    assert pool.members == tuple(phantom_site(name) for name in PHANTOM_POOLS["central"])


def test_a_file_comes_before_the_pool_of_the_phantom(neighbours):
    write(neighbours, {"pool": ["liver"]}, name="central")
    assert [member.name for member in read_site("central", neighbours).members] == ["liver"]


# --- a site that nobody knows -----------------------------------------------------------------------


def test_an_unknown_site_is_told_what_to_write_and_where(config_dir):
    error = refused(config_dir, field="(file)")
    path = site_file(config_dir, HOSPITAL)
    assert path == config_dir / "sites" / f"{HOSPITAL}.json"
    assert str(path) in error.remedy
    for name in PHANTOM_SITES:
        assert name in error.expected


def test_what_an_unknown_site_is_told_to_write_works(config_dir):
    remedy = refused(config_dir, field="(file)").remedy
    example, _ = json.JSONDecoder().raw_decode(remedy[remedy.index("{") :])
    assert set(REQUIRED) <= set(example) <= set(ALLOWED)
    write(config_dir, {**example, "data_root": str(config_dir.parent / "data")})
    site = read_site(HOSPITAL, config_dir)
    space = get_preset("phantom").label_space
    assert space.table(site.labels, where=site.where).labelled


def test_an_unknown_site_without_any_config_dir_is_told_the_same(tmp_path):
    with pytest.raises(ConfigError) as caught:
        read_site(HOSPITAL, tmp_path / "nowhere")
    assert str(tmp_path / "nowhere" / "sites" / f"{HOSPITAL}.json") in str(caught.value)


def test_a_site_file_may_lie_anywhere_and_its_name_is_the_sites(config_dir, tmp_path):
    path = tmp_path / "my sites" / "Klinikum Süd.json"
    path.parent.mkdir()
    path.write_text(json.dumps(good(config_dir)), encoding="utf-8")
    site = read_site_file(path)
    assert (site.name, site.source, site.labels) == ("Klinikum Süd", "site file", {1: "liver", 2: "liver_tumor"})


@pytest.mark.parametrize("name", ["liver.json", "liver", "."])
def test_a_path_without_a_file_is_never_the_phantom(tmp_path, name):
    with pytest.raises(ConfigError) as error:
        read_site_file(tmp_path / name)
    assert error.value.field == "(file)"
    assert "fedpartial datalist" in error.value.remedy


def test_a_pool_can_be_named_by_its_file(config_dir):
    for name in ("north", "south"):
        write(config_dir, good(config_dir), name)
    site = read_site_file(write(config_dir, {"pool": ["north", "south"]}, "both"))
    assert isinstance(site, SitePool)
    assert [member.name for member in site.members] == ["north", "south"]
