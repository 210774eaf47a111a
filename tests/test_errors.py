import copy
import pickle

import pytest

from fedpartial.errors import ConfigError, DataFaults, check_keys

PARTS = {
    "where": "local/sites/site-1.json",
    "field": "num_workers",
    "got": "two",
    "expected": "an integer of at least 0",
    "remedy": "Write 0 to load in the training process.",
}


def test_message_names_file_field_got_expected_and_remedy():
    error = ConfigError(**PARTS)
    message = str(error)
    for name, part in PARTS.items():
        assert part in message, name
        assert getattr(error, name) == part
    assert repr(PARTS["got"]) in message, "the value found is shown as Python writes it: 'two' is not two"


def test_config_error_is_a_value_error():
    assert issubclass(ConfigError, ValueError)


@pytest.mark.parametrize("missing", PARTS)
def test_every_part_of_the_message_is_required(missing):
    with pytest.raises(TypeError, match=missing):
        ConfigError(**{name: part for name, part in PARTS.items() if name != missing})


@pytest.mark.parametrize("send", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
def test_config_error_survives_being_sent_between_processes(send):
    error = ConfigError(**PARTS)
    received = send(error)
    assert type(received) is ConfigError
    assert str(received) == str(error)
    assert {name: getattr(received, name) for name in PARTS} == PARTS


def test_data_faults_report_everything_in_one_message():
    error = DataFaults(["case 1: no image", ConfigError(**PARTS)])
    assert isinstance(error, ValueError)
    assert "2 fault(s)" in str(error)
    assert "case 1: no image" in str(error)
    assert PARTS["remedy"] in str(error)


def test_data_faults_survive_being_sent_between_processes():
    error = DataFaults(iter(["case 1: no image", "case 2: no label"]))
    received = pickle.loads(pickle.dumps(error))
    assert type(received) is DataFaults
    assert received.faults == ["case 1: no image", "case 2: no label"]
    assert str(received) == str(error)


def test_keys_that_fit_are_accepted():
    check_keys({"a": 1}, ["a", "b"], ["a"], where="file")
    check_keys({"a": None, "b": 2}, ["a", "b"], ["a"], where="file")
    check_keys({}, ["a"], [], where="file")


@pytest.mark.parametrize(
    ("given", "field", "got"),
    [
        ([], "(file)", "list"),
        (None, "(file)", "NoneType"),
        ("text", "(file)", "str"),
        ({"a": 1, "c": 2}, "c", "an unknown key"),
        ({"b": 1}, "a", "nothing"),
        ({}, "a", "nothing"),
    ],
)
def test_keys_that_do_not_fit_are_refused(given, field, got):
    with pytest.raises(ConfigError) as caught:
        check_keys(given, ["a", "b"], ["a"], where="site.json")
    error = caught.value
    assert (error.where, error.field, error.got) == ("site.json", field, got)
    for part in ("site.json", field, got, error.expected, error.remedy):
        assert part
        assert part in str(error)


def test_an_unknown_key_is_named_before_a_missing_one_and_lists_the_allowed_ones():
    with pytest.raises(ConfigError, match=r"lables.*labels, data_root"):
        check_keys({"lables": {}}, ["labels", "data_root"], ["labels"], where="site.json")


def test_a_missing_key_is_named_in_the_remedy():
    with pytest.raises(ConfigError, match="'data_root'"):
        check_keys({"labels": {}}, ["labels", "data_root"], ["labels", "data_root"], where="site.json")
