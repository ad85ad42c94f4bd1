"""No secret gets into the outputs of a run: it is refused as a parameter, and masked where it turns up."""

import json
from typing import Any

import pytest

from erpkit.config import Settings
from erpkit.errors import UsageError
from erpkit.runs.run import read_urls
from erpkit.runs.secrets import Mask, check_references, refuse_password


@pytest.mark.parametrize(
    "value",
    [
        "postgresql://me:hunter22@host/db",
        "postgresql://:hunter22@host/db",
        "postgres://me:hunt/er22@host:5432/db",
        "amqp://guest:hunter22@broker",
        "nats://hunter22@broker:4222",
        "host=db password=hunter22",
        "host=db password = 'hunter22'",
        "host=db sslpassword=hunter22",
        "host=db passwd=hunter22",
        "PGPASSWORD=hunter22 psql",
        "postgresql://me@host/db?password=hunter22",
        "ALTER ROLE me PASSWORD 'hunter22'",
        '{"password": "hunter22"}',
        ["fine", ["postgresql://me:hunter22@host/db"]],
        {"host": "db", "password": "hunter22"},
        {"outer": [{"passwd": "hunter22"}]},
    ],
)
def test_a_password_is_refused_however_deep_it_is_and_never_repeated(value: Any) -> None:
    with pytest.raises(UsageError, match="parameter source holds a password") as caught:
        refuse_password("source", value)
    assert "hunter22" not in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        "env:ERP_DSN", "service=erp", "host=db user=me dbname=erp", "postgresql://me@host/db", "", "passfile=/etc/pgpass",
        "http://host:8080/a@b", "the password is in the vault", ["acme", "bluebird"], {"password": "env:PW"}, 3, None,
        "SELECT count(*) FROM passwords",
    ],
)  # fmt: skip
def test_references_and_plain_text_are_no_passwords(value: Any) -> None:
    refuse_password("source", value)


_RANDOM = "q7Zk2mX9Lw4Tn8Rv1Bs6Yp3Hd5Jf0Gc8Ae2Uo"  # made up
TOKENS = [
    f"ghp_{_RANDOM[:36]}", f"gho_{_RANDOM[:36]}", f"github_pat_{_RANDOM[:22]}_{_RANDOM}", f"glpat-{_RANDOM[:20]}",
    f"xoxb-123456789012-{_RANDOM[:24]}", f"xoxp-{_RANDOM[:24]}", "AKIA" + "QX7Z2M9LW4TN8RVB", "ASIA" + "QX7Z2M9LW4TN8RVB",
    f"sk-{_RANDOM}", f"sk-proj-{_RANDOM}", f"sk-ant-api03-{_RANDOM}", f"sk_live_{_RANDOM[:24]}", f"rk_test_{_RANDOM[:24]}",
    f"AIza{_RANDOM[:35]}", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZGEifQ." + _RANDOM[:30], f"npm_{_RANDOM[:36]}",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIE", "-----BEGIN PRIVATE KEY-----", "-----BEGIN OPENSSH PRIVATE KEY-----",
    "https://user:pw@host/path", "https://user:12345@host", "https://hooks.slack.com/services/" + "T0/B0/" + _RANDOM[:24],
    "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=" + _RANDOM + "==;EndpointSuffix=core.windows.net",
    f"Authorization: Bearer {_RANDOM}", f"bearer {_RANDOM}", "Basic b3BlcmF0b3I6aHVudGVyMjI=", f"hf_{_RANDOM[:34]}",
    f"https://host/file?sig={_RANDOM}", f"api_key={_RANDOM}", '{"client_secret": "' + _RANDOM + '"}', f"acme_{_RANDOM[:34]}",
    f"AWS_SECRET_ACCESS_KEY={_RANDOM}", f"see ghp_{_RANDOM[:36]}, please",
    "host: db\npassword: hunter22\n", "{user: me, password: hunter22}",
]  # fmt: skip


@pytest.mark.parametrize("token", TOKENS)
def test_a_token_of_a_known_shape_is_refused_at_any_depth_and_never_repeated(token: str) -> None:
    for value in (
        token,
        [token],
        {"a": [{"b": token}]},
        {token: 1},
        token.encode(),
        json.dumps({"a": [token]}),
        f"- a: {token}",
    ):
        with pytest.raises(UsageError, match="parameter source holds a password or a token") as caught:
            refuse_password("source", value)
        assert token not in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        "3f786850e387550fdab836ed7e6dc881de23001b", "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "550e8400-e29b-41d4-a716-446655440000", "acme-north-warehouse-2026", "sk-bratislava-warehouse-north-2024",
        "task-list-1234567890123456",
        "sales.OrderPlaced", "billing.*",
        "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==",
        "2026-02-03T10:00:00+00:00", "migrate-2b0323b455", "arn:aws:s3:::bucket/key", "s3://bucket/AKIA/2026", "bearer of bad news",
        "Basic internationalization", "the token is in the vault", "SELECT access_token FROM logins WHERE id = $1",
        "api_key=env:API_KEY",
        "password: env:PW", '{"password": "env:PW"}', "AIza", "ghp_reports", "npm_packages", "xoxo", "eyJ",
        "-----BEGIN CERTIFICATE-----",
        "https://host/search?token=short", "secrets of the trade: none", "key=value", "Erpkit_Release_Notes_2026", "Tz: Europe/Berlin",
        "postgresql://me@host:5432/db?sslmode=require", {"max_tokens": 5, "password_length": 12}, b"raw", 7, 1.5, True,
        "inventory_StockLevelChangedInWarehouse", "urn:uuid:550e8400-e29b-41d4-a716-446655440000",
    ],
)  # fmt: skip
def test_what_only_looks_long_is_no_token(value: Any) -> None:
    refuse_password("source", value)
    refuse_password("source", [{"a": value}])


def test_a_number_as_a_password_is_refused() -> None:
    with pytest.raises(UsageError, match="parameter source holds a password"):
        refuse_password("source", {"password": 123456})


def test_a_parameter_that_is_named_for_a_secret_takes_references_alone() -> None:
    refuse_password("api_key", "env:API_KEY")
    with pytest.raises(UsageError, match="parameter api_key holds a password"):
        refuse_password("api_key", "hunter22")


def test_what_references_stand_for_and_configured_passwords_are_masked_in_every_text() -> None:
    environ = {
        "ERP_DSN": "host=db password='hunter 22' user=me", "ERPKIT_DATABASE": "postgresql://me:pa%20ss99@host/db",
        "PGPASSWORD": "hunter33", "ERPKIT_NOTIFY": "env:CHAT", "CHAT": "slack://token-a/token-b", "HOME": "/home/me",
    }  # fmt: skip
    mask = Mask({"database": "env:ERP_DSN", "others": ["env:GONE"]}, environ)
    for secret in ("hunter 22", "pa%20ss99", "pa ss99", "hunter33", "slack://token-a/token-b", environ["ERP_DSN"]):
        assert mask.text(f"see {secret}!") == "see ***!"
    assert mask.all({"data": {"text/plain": ["x hunter33"]}, "n": 1}) == {"data": {"text/plain": ["x ***"]}, "n": 1}
    assert mask.text("/home/me on host as me") == "/home/me on host as me"


def test_without_secrets_nothing_is_masked() -> None:
    assert Mask({"a": "b"}, {"PGPASSWORD": "abc"}).text("abc") == "abc"


def test_a_reference_to_a_variable_that_is_not_set_is_refused_before_a_run() -> None:
    check_references({"n": 1, "database": "env:ERP_DSN"}, {"ERP_DSN": "service=erp"})
    with pytest.raises(UsageError, match="parameter sources refers to the variable GONE, which is not set"):
        check_references({"sources": ["env:ERP_DSN", "env:GONE"]}, {"ERP_DSN": "service=erp"})


def test_settings_look_a_reference_up_and_name_a_variable_that_is_not_set() -> None:
    environ = {"ERP_DSN": "host=db password=hunter22", "ERPKIT_DATABASE": "env:ERP_DSN"}
    assert Settings.from_env(environ).database == "host=db password=hunter22"
    assert Settings().with_database("env:ERP_DSN", environ).database == "host=db password=hunter22"
    assert Settings().with_database("service=erp").database == "service=erp"
    assert Settings(database="x").with_database("").database == "x"
    with pytest.raises(UsageError, match="the database is env:GONE, and the variable GONE is not set"):
        Settings().with_database("env:GONE", environ)


def test_the_urls_of_receivers_come_from_other_variables_too() -> None:
    environ = {"ERPKIT_NOTIFY": "json://a, env:CHAT", "CHAT": "slack://b mailto://c"}
    assert read_urls(environ) == ["json://a", "slack://b", "mailto://c"]
    assert read_urls({}) == []
    with pytest.raises(UsageError, match="names the variable GONE, which is not set"):
        read_urls({"ERPKIT_NOTIFY": "env:GONE"})
