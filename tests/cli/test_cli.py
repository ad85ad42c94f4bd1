"""The command line as a user meets it: first lines, exit codes, and one clear line for every mistake."""

import json
import os
import re
from pathlib import Path

import pytest

import erpkit as kit
from erpkit.database import Database
from erpkit.embedded import EmbeddedServer
from erpkit.modules import Registry
from erpkit.runs.sample import NOTEBOOKS, renew_database
from erpkit.sample.demo import Planted, plant
from tests.command import erpkit, refused, rows_of
from tests.conftest import SMALL


@pytest.fixture(autouse=True)
def environment(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERPKIT_DATABASE", database.conninfo)
    monkeypatch.setenv("ERPKIT_MODULES", "erpkit.sample")


def test_the_first_line_names_the_target(erp: Planted, database: Database) -> None:
    for arguments in (("tenants", "list"), ("migrate", "status"), ("events", "dead-letters", "list")):
        first = erpkit(*arguments, "-o", "table").stdout.splitlines()[0]
        assert first.startswith("target: /"), first
        assert first.endswith(f"/{database.conninfo.split('/')[3].split('?')[0]}/postgres")


def test_json_is_all_there_is_on_standard_output(erp: Planted) -> None:
    for arguments in (("tenants", "list"), ("tenants", "inspect"), ("migrate", "status"), ("migrate", "plan"),
                      ("modules", "list"), ("modules", "check"), ("events", "list", "acme"),
                      ("events", "dead-letters", "list")):  # fmt: skip
        done = erpkit(*arguments, "--json")
        assert json.loads(done.stdout), done.stderr


def test_inspect_ends_with_3_and_names_each_trouble(erp: Planted) -> None:
    done = erpkit("tenants", "inspect", "-o", "table")
    assert done.returncode == 3
    for tenant in (erp.behind, erp.drifted, erp.dead_letters):
        assert f"! {tenant}: " in done.stdout
    assert f"- {erp.suspended}: suspended" in done.stdout
    assert erpkit("tenants", "inspect", erp.suspended, "--json").returncode == 0  # a person chose that


def test_inspecting_one_tenant_shows_its_tables_versions_and_last_event(erp: Planted) -> None:
    shown = erpkit("tenants", "inspect", erp.suspended, "-o", "table").stdout
    assert "billing_invoices" in shown
    assert re.search(r"versions erpkit \d+, catalog 3, sales 3, inventory 3, billing 4", shown)
    assert "last event 20" in shown


def test_a_database_that_goes_away_is_one_line(erp: Planted, database: Database) -> None:
    with database.connection() as connection:
        connection.execute("ALTER TABLE public.erpkit_migrations RENAME COLUMN who TO whom")
    refused(erpkit("migrate", "history"), 1, "the database said: column", "who")


def test_a_table_of_tenants_that_is_not_erpkits_is_one_line_that_says_what_to_set(
    erp: Planted, database: Database
) -> None:
    with database.connection() as connection:
        connection.execute("ALTER TABLE public.tenants RENAME COLUMN status TO state")
    refused(erpkit("tenants", "list"), 2, "public.tenants is not erpkit's", "ERPKIT_TENANTS_QUERY")


def test_a_tenant_is_created_suspended_and_activated(database: Database) -> None:
    assert "created acme: schema tenant_acme" in erpkit("tenants", "create", "acme").stderr
    assert "acme is suspended" in erpkit("tenants", "suspend", "acme").stderr
    assert json.loads(erpkit("tenants", "list", "--json").stdout)[0]["status"] == "suspended"
    assert "acme is active" in erpkit("tenants", "activate", "acme").stderr


def test_a_tenant_is_exported_archived_dropped_and_imported_again(erp: Planted, tmp_path: Path) -> None:
    file = str(tmp_path / "acme.erpkit")
    assert f"exported acme to {file}: " in erpkit("tenants", "export", "acme", file).stderr
    refused(erpkit("tenants", "drop", "acme"), 2, "tenant acme is active: suspend or archive it first")
    assert "acme is archived" in erpkit("tenants", "archive", "acme").stderr
    shown = erpkit("tenants", "drop", "acme").stderr
    assert "dry run: nothing was changed" in shown
    refused(erpkit("tenants", "drop", "acme", "--confirm", "drop-1"), 2, "drop-1", "nothing was done")
    assert (
        "dropped acme: " in erpkit("tenants", "drop", "acme", "--confirm", shown.split("--confirm ")[1].strip()).stderr
    )
    refused(erpkit("tenants", "drop", "acme"), 2, "no tenant 'acme'")
    assert "imported apex: schema tenant_apex" in erpkit("tenants", "import", file, "--as", "apex").stderr
    assert "renamed apex to acme: schema tenant_acme" in erpkit("tenants", "rename", "apex", "acme").stderr
    refused(erpkit("tenants", "import", file), 2, "tenant acme or schema tenant_acme already exists")
    refused(erpkit("tenants", "rename", "acme", "a,b"), 2, "'a,b' is not a valid tenant name")


def test_what_is_done_to_the_fleet_names_the_tenants_that_it_passes_over(erp: Planted) -> None:
    for arguments in (("migrate", "plan"), ("migrate", "up"), ("events", "dispatch", "--once"), ("events", "replay")):
        assert f"skipped {erp.suspended}: suspended" in erpkit(*arguments).stderr, arguments


def test_migrations_are_planned_confirmed_and_taken_back(erp: Planted) -> None:
    assert erpkit("migrate", "status").returncode == 3
    plan = json.loads(erpkit("migrate", "plan", "--json").stdout)
    assert [(step["tenant"], step["migration"]) for step in plan["steps"]] == [(erp.behind, "billing/00004_due_dates")]
    assert f"--confirm {plan['id']}" in erpkit("migrate", "up").stderr
    refused(erpkit("migrate", "up", "--confirm", "migrate-1"), 2, "migrate-1", "nothing was done")
    assert erpkit("migrate", "up", "--confirm", plan["id"]).returncode == 0
    assert erpkit("migrate", "status").returncode == 0
    down = ("migrate", "down", "--tenant", erp.behind, "--module", "billing", "--to", "3")
    shown = erpkit(*down).stderr
    assert erpkit(*down, "--confirm", shown.split("--confirm ")[1].strip()).returncode == 0
    assert erpkit("migrate", "status").returncode == 3
    refused(erpkit("migrate", "down", "--module", "billing", "--to", "3"), 2, "--tenant", "--all")
    everyone = erpkit("migrate", "redo", "--module", "catalog", "--all").stderr
    assert "on 4 schemas" in everyone  # `_template` and three active tenants
    assert erp.suspended in everyone


def test_events_are_replayed_after_a_dry_run(erp: Planted) -> None:
    shown = erpkit("events", "replay", "--topic", "billing.*")
    assert "left out" in shown.stderr
    done = erpkit("events", "replay", "--topic", "billing.*", "--confirm", shown.stderr.split("--confirm ")[1].strip())
    assert done.returncode == 0
    assert "0 failed" in done.stderr


def test_an_erp_that_erpkit_only_reads_has_no_event_log_and_each_command_says_so(erp: Planted) -> None:
    query = {
        "ERPKIT_TENANTS_QUERY": "SELECT slug, schema_name FROM public.tenants",
        "ERPKIT_BROKER": "nats://localhost:1",
    }
    for arguments in ("list acme", "lag", "dispatch --once", "dispatch --from-broker", "forward --once", "replay", "replays",
                      "shadows", "watermill", "dead-letters list", "dead-letters count", "dead-letters show acme 1",
                      "dead-letters retry", "dead-letters discard --reason x", "replay --to file:x"):  # fmt: skip
        refused(erpkit("events", *arguments.split(), **query), 2, "only reads this ERP, which has no event log")


def test_no_tenants_are_not_good_tenants(database: Database) -> None:
    for arguments in ("lag", "dead-letters count", "dead-letters list", "dead-letters retry", "replay"):
        done = erpkit("events", *arguments.split(), "-o", "table")
        assert (done.returncode, "! there are no tenants" in done.stdout) == (3, True), arguments
    done = erpkit("events", "dead-letters", "list", "--json")
    assert (done.returncode, json.loads(done.stdout), "there are no tenants" in done.stderr) == (3, [], True)


def test_what_cannot_be_meant_is_told_rather_than_found_to_be_nothing(erp: Planted) -> None:
    refused(erpkit("migrate", "plan", "--module", "sales", "--to", "99"), 2, "module sales has no version 99")
    refused(erpkit("migrate", "down", "--module", "sales", "--to", "99", "--all"), 2, "module sales has no version 99")
    refused(erpkit("tenants", "drift", "acme", "--against", "acme"), 2, "acme cannot be compared with itself")


def test_a_choice_that_fits_nothing_says_so_rather_than_that_there_is_nothing(erp: Planted) -> None:
    assert (
        "No dead letter matches; 3 others are open."
        in erpkit("events", "dead-letters", "list", "--handler", "nohandler*").stderr
    )
    assert "no dead letters\n" in erpkit("events", "dead-letters", "list", "--tenant", erp.behind).stderr
    assert "No run was recorded" in erpkit("runs", "--notebook", "nonb").stderr


def test_events_that_wait_for_long_are_found_by_inspection_the_card_and_the_lag(
    erp: Planted, database: Database
) -> None:
    assert "has waited for" not in erpkit("tenants", "inspect", "acme").stderr
    with database.connection() as connection:
        connection.execute("DELETE FROM tenant_acme.erpkit_checkpoints")
        connection.execute("UPDATE tenant_acme.erpkit_events SET recorded_at = now() - interval '6 minutes'")
    for command in ("tenants inspect acme", "tenants inspect", "events lag --tenant acme"):
        done = erpkit(*command.split(), "-o", "table")
        assert (done.returncode, "acme: an event has waited for inventory.on_order_placed for more than 5 min" in done.stdout) == (
            3, True,
        ), done.stdout  # fmt: skip
    assert erpkit("events", "lag", "--tenant", "acme", "--max-age", "600").returncode == 0
    with kit.open(database.conninfo, modules="erpkit.sample") as door:
        assert "an event has waited for" in str(door)


def test_a_migration_file_is_shown_as_statements(tmp_path: Path) -> None:
    file = tmp_path / "1_a.sql"
    file.write_text("-- +goose Up\nSELECT 1;\nSELECT 2;\n-- +goose Down\nSELECT 3;\n")
    assert json.loads(erpkit("migrate", "show", str(file), "--json").stdout)["statements"] == ["SELECT 1;", "SELECT 2;"]
    assert erpkit("migrate", "show", str(file), "--direction", "down").stdout == "SELECT 3;\n"
    file.write_text("-- +goose Up\nSELECT 1")
    refused(erpkit("migrate", "show", str(file)), 2, "1_a.sql", "semicolon")


def test_no_database_is_one_line_with_the_target() -> None:
    refused(
        erpkit("tenants", "list", ERPKIT_DATABASE="host=127.0.0.1 port=1 dbname=erp user=me"),
        1,
        "127.0.0.1:1/erp/me",
        "refused",
    )


def test_a_hostile_tenant_name_is_one_line(erp: Planted) -> None:
    for slug in ('x"; drop schema acme; --', "a,b", "_template", ""):
        for command in ("create", "inspect", "suspend"):
            refused(erpkit("tenants", command, slug), 2, repr(slug) if slug else "no tenant is named: give its name")


def test_an_unknown_tenant_is_one_line(erp: Planted, tmp_path: Path) -> None:
    refused(
        erpkit("run", "inspect_tenants", "--tenant", "acne", "--output", str(tmp_path / "runs")), 2, "no tenant 'acne'"
    )
    refused(
        erpkit("run", "inspect_tenants", "-p", "tenants", "a b", "--output", str(tmp_path / "runs")),
        2,
        "'a b' is not a valid tenant name",
    )
    assert not (tmp_path / "runs").exists()
    refused(erpkit("tenants", "inspect", "acne"), 2, "no tenant 'acne'; did you mean acme?")
    refused(erpkit("events", "list", "acne"), 2, "acne")


def test_an_unknown_notebook_is_one_line() -> None:
    refused(erpkit("run", "inspect_tenant"), 2, "no notebook 'inspect_tenant'", "inspect_tenants")


def test_a_wrong_parameter_is_one_line_and_nothing_is_started(tmp_path: Path) -> None:
    out = ("--output", str(tmp_path / "runs"))
    refused(erpkit("run", "run_migrations", "-p", "dry_run", "flase", *out), 2, "dry_run = 'flase' is not of type bool")
    refused(erpkit("run", "run_migrations", "-p", "dryrun", "false", *out), 2, "did you mean dry_run")
    refused(erpkit("run", "run_migrations", "-p", "dry_run=flase", *out), 2, "dry_run = 'flase' is not of type bool")
    refused(erpkit("run", "run_migrations", "-p", "confirm", "-p", "-p", "dryrun=no", *out), 2, "did you mean dry_run")
    refused(erpkit("run", "run_migrations", "-p", "dry_run"), 2, "Option '-p' requires 2 arguments")
    refused(erpkit("run", "run_migrations", "-p", "confirm", "postgresql://u:pw@h/d", *out), 2, "password")
    assert not (tmp_path / "runs").exists()


def test_a_notebook_tells_its_parameters() -> None:
    done = erpkit("run", "run_migrations", "--help")
    assert done.returncode == 0
    assert "dry_run: bool = True\n      show the plan only" in done.stdout


def test_a_broken_migration_file_stops_everything_before_it_starts(database: Database, tmp_path: Path) -> None:
    package = tmp_path / "shop"
    (package / "migrations").mkdir(parents=True)
    (package / "__init__.py").write_text(
        "from pathlib import Path\nfrom erpkit import Module\n"
        "module = Module('shop', migrations=Path(__file__).parent / 'migrations')\n"
    )
    (package / "migrations" / "00001_broken.sql").write_text("CREATE TABLE a (id int);\n")
    info = tmp_path / "shop-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: shop\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[shop.modules]\nshop = shop:module\n")
    environ = {"PYTHONPATH": str(tmp_path), "ERPKIT_MODULES": "shop.modules"}
    for arguments in (("tenants", "create", "acme"), ("migrate", "up"), ("migrate", "status")):
        refused(erpkit(*arguments, **environ), 1, "00001_broken.sql", "line 1")
    with database.connection() as connection:
        assert connection.execute("SELECT to_regclass('public.tenants')").fetchone() == (None,)


def test_modules_that_depend_on_each_other_stop_start_up_and_are_a_finding(tmp_path: Path) -> None:
    (tmp_path / "loop.py").write_text("from erpkit import Module\na = Module('a', ('b',))\nb = Module('b', ('a',))\n")
    info = tmp_path / "loop-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: loop\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[loop.modules]\na = loop:a\nb = loop:b\n[gone.modules]\nx = no_such:x\n")
    environ = {"PYTHONPATH": str(tmp_path), "ERPKIT_MODULES": "loop.modules"}
    refused(erpkit("modules", "list", **environ), 1, "a -> b -> a")
    done = erpkit("modules", "check", "-o", "table", **environ)
    assert (done.returncode, "cycle: a -> b -> a; cut a -> b" in done.stdout) == (3, True)
    refused(
        erpkit("modules", "list", **(environ | {"ERPKIT_MODULES": "gone.modules"})),
        1,
        "entry point x (no_such:x) cannot be loaded",
    )


def test_db_tells_its_state_and_url_without_a_password() -> None:
    assert erpkit("db", "status").returncode == 0
    assert erpkit("db", "url").stdout.startswith("postgresql://postgres@/erpkit?host=")
    assert "was running" in erpkit("db", "start").stderr


def test_the_demo_replaces_an_earlier_one_and_finds_what_was_planted(
    tmp_path: Path, server: EmbeddedServer, registry: Registry
) -> None:
    renew_database(server)
    with Database(server.url(), "embedded") as earlier:
        plant(earlier, registry, tenants=1, size=SMALL)
    for name in NOTEBOOKS:
        (tmp_path / f"{name}.html").write_text("of an earlier demo")
    done = erpkit("demo", "--tenants", "4", "--output", str(tmp_path), ERPKIT_DATABASE="host=127.0.0.1 port=1")
    assert done.returncode == 0, done.stderr
    for trouble in ("dead letter", "column sales_orders.hotfix_note is extra", "behind on migrations", "suspended"):
        assert trouble in done.stderr
    lines = done.stderr.splitlines()
    assert [row[0] for row in rows_of(done)] == list(NOTEBOOKS)
    (behind,) = [line for line in lines if "behind on migrations" in line]
    assert behind.startswith("! inspect_tenants: ")
    assert behind.endswith(" (run_migrations fixed it)")
    assert not any("fixed it" in line for line in lines if "hotfix_note" in line or "suspended" in line)
    assert [line for line in lines if line.startswith("! replay_events: ")] == []  # what it finds is advice
    assert {path.name for path in tmp_path.iterdir()} == {
        "index.html", ".erpkit-index.jsonl", *(f"{name}.{kind}" for name in NOTEBOOKS for kind in ("ipynb", "html")),
    }  # fmt: skip
    assert not any("of an earlier demo" in path.read_text() for path in tmp_path.glob("*.html"))


def test_the_demo_says_how_long_many_tenants_take() -> None:
    assert "a dozen takes less than a minute, 250 take some" in " ".join(erpkit("demo", "--help").stdout.split())


def test_a_database_that_does_not_answer_is_named_once_on_the_card() -> None:
    card = str(kit.open("postgresql://nobody@127.0.0.1:1/nothing"))
    assert card.count("cannot connect to 127.0.0.1:1/nothing/nobody") == 1
    assert [line.split()[0] for line in card.splitlines()] == ["database", "modules"]


def test_the_demo_leaves_tenants_of_ones_own_alone(tmp_path: Path) -> None:
    home = {"ERPKIT_HOME": os.environ["ERPKIT_HOME"] + "/mine", "ERPKIT_DATABASE": ""}
    try:
        assert erpkit("tenants", "create", "acme", **home).returncode == 0
        refused(erpkit("demo", "--output", str(tmp_path), **home), 2, "holds tenants of yours (acme)")
        assert json.loads(erpkit("tenants", "list", "--json", **home).stdout)[0]["slug"] == "acme"
    finally:
        assert "stopped" in erpkit("db", "stop", **home).stderr


def test_drift_is_told_in_words_as_ddl_and_as_json(erp: Planted) -> None:
    words = erpkit("tenants", "drift", "-o", "table")
    assert words.returncode == 3
    assert f"! {erp.drifted}: column sales_orders.hotfix_note is extra" in words.stdout
    script = erpkit("tenants", "drift", erp.drifted, "--ddl")
    assert script.stdout.startswith(f"-- tenant {erp.drifted}\n-- destructive: ALTER TABLE ")
    assert "CREATE INDEX billing_payments_invoice ON " in script.stdout
    assert {one["change"] for one in json.loads(erpkit("tenants", "drift", erp.drifted, "--json").stdout)} == {
        "extra", "missing",
    }  # fmt: skip
    assert erpkit("tenants", "drift", erp.suspended).returncode == 0
