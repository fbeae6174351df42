"""`.env.example` says what the settings classes say."""

from deploy.local.children import ROOT
from deploy.local.dotenv import read_dotenv
from deploy.local.env_example import MISSION, declared, render

PATH = ROOT / ".env.example"


def test_the_committed_file_is_what_the_settings_give() -> None:
    assert PATH.read_text() == render(), "run: make env-example"


def test_every_variable_of_the_mission_and_of_the_settings_is_listed() -> None:
    text = PATH.read_text()
    missing = [name for name in MISSION if name not in text]
    missing += [name for name in declared() if name not in text]
    assert missing == []


def test_a_plain_copy_changes_nothing() -> None:
    assert read_dotenv(PATH) == {}
