"""Which statements reach beyond the tenant, and which only look like it."""

from pathlib import Path

import pytest

from erpkit.migrations import Migration, lint_report, parse_migration
from erpkit.migrations.reach import find_reach
from erpkit.migrations.tokens import split_statements

BEYOND = {
    "only-once": [
        "CREATE EXTENSION vector",
        "CREATE EXTENSION IF NOT EXISTS vector",
        "CREATE EXTENSION IF NOT EXISTS vector SCHEMA other",
        "CREATE ROLE bob",
        "CREATE USER bob",
        "DROP ROLE bob",
        "CREATE GROUP staff",
        "CREATE DATABASE d",
        "CREATE TABLESPACE s LOCATION '/x'",
        "CREATE PUBLICATION p FOR ALL TABLES",
        "CREATE SUBSCRIPTION s CONNECTION '' PUBLICATION p",
        "CREATE TRUSTED LANGUAGE x",
        "CREATE OR REPLACE LANGUAGE x",
        "CREATE EVENT TRIGGER t ON ddl_command_end EXECUTE FUNCTION f()",
        "CREATE FOREIGN DATA WRAPPER w",
        "CREATE SERVER s FOREIGN DATA WRAPPER w",
        "CREATE USER MAPPING FOR bob SERVER s",
        "CREATE CAST (int AS text) WITH INOUT",
        "CREATE SCHEMA other",
        "CREATE SCHEMA IF NOT EXISTS other",
        "ALTER EXTENSION vector UPDATE",
        "/* first */ create -- second\n role bob",
        'CREATE ROLE "Bob"',
        "DROP EXTENSION vector",
    ],
    "other-schema": [
        "CREATE TABLE public.x (id int)",
        'CREATE TABLE "Public".x (id int)',
        "CREATE TABLE IF NOT EXISTS public.x (id int)",
        "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS i ON public.x (id)",
        "CREATE OR REPLACE FUNCTION public.f() RETURNS int AS '' LANGUAGE sql",
        "CREATE MATERIALIZED VIEW public.v AS SELECT 1",
        "CREATE TRIGGER t AFTER INSERT ON public.x EXECUTE FUNCTION f()",
        "CREATE TYPE public.mood AS ENUM ()",
        "ALTER TABLE ONLY public.x ADD COLUMN a int",
        "ALTER TABLE x SET SCHEMA public",
        "DROP TABLE IF EXISTS a, public.b",
        "INSERT INTO public.x VALUES (1)",
        "UPDATE public.x SET a = 1",
        "DELETE FROM ONLY public.x",
        "WITH a AS (SELECT 1) INSERT INTO public.x SELECT * FROM a",
        "TRUNCATE TABLE public.x",
        "COPY public.x FROM '/tmp/x'",
        "GRANT SELECT ON public.x TO bob",
        "GRANT USAGE ON SCHEMA public TO bob",
        "COMMENT ON TABLE public.x IS ''",
        "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO bob",
        "CREATE TEXT SEARCH CONFIGURATION public.c (COPY = english)",
        "CREATE TABLE tenant_acme.x (id int)",
    ],
    "leaves-schema": [
        "SET search_path TO public",
        "SET LOCAL search_path = ''",
        "set session search_path = a, b",
        'SET "search_path" TO public',
        "SET SCHEMA 'public'",
        "SET ROLE bob",
        "SET LOCAL ROLE NONE",
        "SET SESSION AUTHORIZATION bob",
        "RESET search_path",
        "RESET ALL",
        "RESET ROLE",
        "DISCARD ALL",
        "SELECT pg_catalog.set_config('search_path', '', false)",
        "SELECT set_config($$role$$, 'x', true)",
    ],
    "whole-server": [
        "ALTER SYSTEM SET work_mem = '1MB'",
        "ALTER DATABASE d SET work_mem = '1MB'",
        "ALTER ROLE bob SET work_mem = '1MB'",
        "ALTER USER bob PASSWORD 'x'",
        "GRANT staff TO bob",
        "REVOKE staff FROM bob",
    ],
}
WITHIN = [
    "CREATE TABLE x (id int REFERENCES public.countries)",
    "CREATE INDEX i ON x (id)",
    "SET work_mem = '1MB'",
    "SET CONSTRAINTS ALL DEFERRED",
    "SET LOCAL statement_timeout = 0",
    "INSERT INTO x SELECT * FROM public.countries",
    "SELECT 'CREATE ROLE bob'",
    "DO $$ BEGIN CREATE ROLE bob; EXCEPTION WHEN duplicate_object THEN NULL; END $$",
    "-- CREATE ROLE bob\nSELECT 1",
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql SET search_path = public AS 'SELECT 1'",
    "CREATE TEMP TABLE pg_temp.x (id int)",
    "GRANT SELECT ON x TO bob",
    "COMMENT ON COLUMN x IS 'public.y'",
    "UPDATE x SET a = y.b FROM public.y",
    "SELECT set_config('work_mem', '1', true)",
    "CREATE TABLE role (id int)",
    "CREATE TABLE server (role text)",
    "SELECT * FROM x FOR UPDATE",
    "DROP FUNCTION f(public.mood)",
    "INSERT INTO x VALUES (1) ON CONFLICT DO NOTHING",
    "CREATE EXTENSION IF NOT EXISTS plpgsql",
    "ALTER TABLE x OWNER TO bob",
    "ALTER TABLE x ADD CONSTRAINT role CHECK (true)",
    "CREATE POLICY p ON x USING (true)",
    "CREATE FUNCTION f() RETURNS int LANGUAGE SQL BEGIN ATOMIC SELECT 1; SELECT 2; END",
]


@pytest.mark.parametrize(("rule", "text"), [(rule, text) for rule, texts in BEYOND.items() for text in texts])
def test_what_reaches_beyond_the_tenant_is_named(rule: str, text: str) -> None:
    (statement,) = split_statements(text)
    found = find_reach(statement)
    assert found is not None
    assert found.rule == rule


@pytest.mark.parametrize("text", WITHIN)
def test_what_stays_with_the_tenant_is_not(text: str) -> None:
    (statement,) = split_statements(text)
    assert find_reach(statement) is None


@pytest.mark.parametrize(
    "text",
    [
        "CREATE EXTENSION IF NOT EXISTS vector SCHEMA shared",
        "CREATE EXTENSION IF NOT EXISTS vector WITH SCHEMA shared CASCADE",
        "CREATE TABLE IF NOT EXISTS shared.countries (id int)",
        "CREATE OR REPLACE VIEW shared.v AS SELECT 1",
        "CREATE SCHEMA IF NOT EXISTS shared",
    ],
)
def test_what_can_be_done_again_and_again_in_a_shared_schema_is_not(text: str) -> None:
    (statement,) = split_statements(text)
    assert find_reach(statement, ["shared"]) is None
    assert find_reach(statement) is not None


def test_an_extension_that_is_installed_in_a_shared_schema_is_found_there_by_every_tenant() -> None:
    (statement,) = split_statements("CREATE EXTENSION IF NOT EXISTS vector")
    assert find_reach(statement, ["shared"], {"vector": "shared"}) is None
    assert find_reach(statement, ["shared"], {"vector": "_template"}) is not None


def test_the_finding_names_the_line_of_the_file_and_comes_without_squawk_too() -> None:
    text = "-- +goose Up\nCREATE TABLE x (id int);\n\n-- +goose StatementBegin\nSELECT 1;\nCREATE ROLE bob;\n-- +goose StatementEnd\n"
    migration = Migration("stock", 1, Path("00001_a.sql"), parse_migration(text), text)
    found = [(f.line, f.statement, f.rule, f.level) for f in lint_report([migration]).findings]
    assert found == [(6, "CREATE ROLE bob;", "only-once", "error")]
