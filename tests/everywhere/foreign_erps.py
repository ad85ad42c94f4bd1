"""Real ERPs of other tools to try erpkit on: a project of django-tenants, and a fleet of Alembic with a schema a tenant."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict

# Names as customers have them: hyphens, capitals, umlauts, spaces. django-tenants refuses quotes.
DJANGO_TENANTS = ("acme", "Bäckerei-Süd", "kunde-03", "Kunde 04", "Ost_AG", *(f"kunde_{n:02}" for n in range(5, 21)))[
    :20
]
ALEMBIC_TENANTS = tuple(f"firm-{n}" for n in range(1, 21))

_SETTINGS = """
import os
SECRET_KEY = "not a secret"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {{"default": {{"ENGINE": "django_tenants.postgresql_backend", **{database!r}}}}}
DATABASE_ROUTERS = ("django_tenants.routers.TenantSyncRouter",)
SHARED_APPS = ["django_tenants", "customers", "django.contrib.contenttypes"]
TENANT_APPS = ["shop"]
INSTALLED_APPS = [*SHARED_APPS, *TENANT_APPS]
TENANT_MODEL = "customers.Client"
TENANT_DOMAIN_MODEL = "customers.Domain"
"""
_CUSTOMERS = """
from django.db import models
from django_tenants.models import DomainMixin, TenantMixin


class Client(TenantMixin):
    name = models.CharField(max_length=100)
    is_active = models.BooleanField(default=True)
    auto_create_schema = True

    class Meta:
        app_label = "customers"


class Domain(DomainMixin):
    class Meta:
        app_label = "customers"
"""
_SHOP = """
from django.db import models


class Customer(models.Model):
    name = models.CharField(max_length=100)


class Order(models.Model):
    customer = models.ForeignKey(Customer, on_delete=models.CASCADE)
    total = models.DecimalField(max_digits=10, decimal_places=2)
    placed_on = models.DateField(auto_now_add=True)
    note = models.TextField(default="")
"""
_FILL = """
import django; django.setup()
from django_tenants.utils import schema_context
from customers.models import Client, Domain
from shop.models import Customer, Order
Client(schema_name="public", name="the operator").save()
for number, schema in enumerate({tenants!r}):
    client = Client(schema_name=schema, name=schema.title() + " AG", is_active=number != 2)
    client.save()
    Domain(domain=f"tenant{{number}}.example.com", tenant=client, is_primary=True).save()
    with schema_context(schema):
        customer = Customer.objects.create(name="Ann")
        for n in range(number + 1):
            Order.objects.create(customer=customer, total=n)
"""
_INITIAL = """
from django.db import migrations, models
import django.db.models.deletion


class Migration(migrations.Migration):
    initial = True
    dependencies = []
    operations = [
        migrations.CreateModel("Customer", [("id", models.BigAutoField(primary_key=True)), ("name", models.CharField(max_length=100))]),
        migrations.CreateModel("Order", [
            ("id", models.BigAutoField(primary_key=True)),
            ("customer", models.ForeignKey("shop.customer", on_delete=django.db.models.deletion.CASCADE)),
            ("total", models.DecimalField(max_digits=10, decimal_places=2)),
            ("placed_on", models.DateField(auto_now_add=True)),
        ]),
    ]
"""
_NOTE = """
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]
    operations = [migrations.AddField("order", "note", models.TextField(default=""))]
"""
_ENV = """
import os
from alembic import context
from sqlalchemy import create_engine, text
schema = context.get_x_argument(as_dictionary=True)["schema"]
with create_engine(os.environ["FLEET"]).connect() as connection:
    connection.exec_driver_sql('CREATE SCHEMA IF NOT EXISTS "%s"' % schema.replace('"', '""'))
    connection.exec_driver_sql('SET search_path TO "%s"' % schema.replace('"', '""'))
    connection.commit()
    context.configure(connection=connection, version_table_schema=schema, transactional_ddl=True)
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()
"""
_REVISION = """
import sqlalchemy as sa
from alembic import op
revision, down_revision = {revision!r}, {before!r}
branch_labels = depends_on = None
def upgrade():
    {up}
def downgrade():
    pass
"""


def _database(conninfo: str) -> dict[str, str]:
    parts = conninfo_to_dict(conninfo)
    return {"NAME": str(parts["dbname"]), "USER": str(parts["user"]), "HOST": str(parts.get("host") or "")}


def _run(folder: Path, *command: str, **environ: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *command],
        cwd=folder,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def make_django(folder: Path, conninfo: str) -> None:
    """Make a project of django-tenants with 20 tenants, the last of which lacks the newest migration of its app."""
    for name, text in {
        "settings.py": _SETTINGS.format(database=_database(conninfo)), "customers/__init__.py": "", "customers/models.py": _CUSTOMERS,
        "customers/migrations/__init__.py": "", "shop/__init__.py": "", "shop/models.py": _SHOP, "shop/migrations/__init__.py": "",
        "shop/migrations/0001_initial.py": _INITIAL, "shop/migrations/0002_note.py": _NOTE,
    }.items():  # fmt: skip
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    environ = {"DJANGO_SETTINGS_MODULE": "settings", "PYTHONPATH": str(folder)}
    _run(folder, "-m", "django", "makemigrations", "customers", **environ)
    _run(folder, "-m", "django", "migrate_schemas", "--shared", **environ)
    _run(folder, "-c", _FILL.format(tenants=DJANGO_TENANTS), **environ)
    _run(folder, "-m", "django", "migrate_schemas", f"--schema={DJANGO_TENANTS[-1]}", "shop", "0001", **environ)


def make_alembic(folder: Path, conninfo: str) -> None:
    """Make 20 tenants by Alembic, one run a schema; the last one is a revision behind, and a table lists them by number."""
    (folder / "versions").mkdir(parents=True)
    (folder / "env.py").write_text(_ENV)
    (folder / "script.py.mako").write_text("")
    (folder / "alembic.ini").write_text("[alembic]\nscript_location = .\n")
    ups = (
        "op.create_table('orders', sa.Column('id', sa.Integer, primary_key=True), sa.Column('total', sa.Numeric))",
        "op.create_table('invoices', sa.Column('id', sa.Integer, primary_key=True))",
    )
    for revision, before, up in (("3f2a", None, ups[0]), ("9b1c", "3f2a", ups[1])):
        (folder / "versions" / f"{revision}.py").write_text(_REVISION.format(revision=revision, before=before, up=up))
    parts = _database(conninfo)
    url = f"postgresql+psycopg://{parts['USER']}@/{parts['NAME']}?host={parts['HOST']}"
    script = (
        "import sys; from alembic.config import main\n"
        "for s in sys.argv[1:]: main(['-x', 'schema=' + s, 'upgrade', 'head' if s != sys.argv[-1] else '3f2a'])"
    )
    _run(folder, "-c", script, *ALEMBIC_TENANTS, FLEET=url)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(
            'CREATE TABLE public.firms (id int PRIMARY KEY, title text, "State" text);'
            "INSERT INTO public.firms SELECT n, 'Firm ' || n, 'active' FROM generate_series(1, 20) n"
        )
