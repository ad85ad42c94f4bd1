"""The kinds of findings on modules: how severe each is unless the rules say otherwise, and what it means."""

from __future__ import annotations

from erpkit.finding import Severity

NOT_READ = "not read"

# What start-up refuses is an error. A kind's name stands in baselines and in other programs' records: it does not change.
FINDINGS: dict[str, tuple[Severity, str]] = {
    "registered twice": ("error", "Two distributions register one entry point."),
    "cannot be loaded": ("error", "An entry point cannot be imported."),
    "no module": ("error", "What is registered is not a module."),
    "bad name": ("error", "A module's name cannot be the namespace of topics and tables."),
    "duplicate": ("error", "Several modules have one name."),
    "missing dependency": ("error", "A module depends on one that does not exist."),
    "cycle": ("error", "Modules depend on each other, so that there is no load order."),
    "missing folder": ("error", "A module's folder of migrations is not there."),
    "bad migrations": ("error", "A module's migrations cannot be read."),
    "handler named twice": ("error", "Several event handlers have one name."),
    "command handled twice": ("error", "A command has several handlers."),
    "query handled twice": ("error", "A query has several handlers."),
    "event published twice": ("error", "Several modules publish one event."),
    "topic used twice": ("error", "Several messages have one topic."),
    "tool named twice": ("error", "Several tools have one name."),
    "orphan handler": ("error", "A handler subscribes to an event that no module publishes."),
    "bad handler": ("error", "A handler cannot be called with what it is given."),
    "no start": ("error", "A handler with effects outside the database does not say where it starts."),
    "taken over alive": ("error", "A handler takes over from one that is still there."),
    "orphan upcaster": ("error", "A module has an upcaster of an event that it does not publish."),
    "upcaster gap": ("error", "An event's upcasters leave out a version."),
    "invalid manifest": ("error", "An addon's manifest is not what Odoo reads."),
    "not installable": ("error", "An addon depends on one that cannot be installed."),
    "no modules": ("warning", "There was nothing to check."),
    NOT_READ: ("warning", "A file, a folder or the database could not be read."),
    "hidden cycle": ("warning", "Modules require each other, as code and tables show."),
    "undeclared dependency": ("warning", "A module requires another without declaring it."),
    "unused dependency": ("warning", "A module declares a dependency that nothing needs."),
    "layer violation": ("warning", "A module requires one of a higher layer."),
    "unknown layer": ("warning", "The layers name a module that there is not."),
    "unknown module": ("warning", "The rules forbid couplings of a module that there is not."),
    "forbidden coupling": ("warning", "A module is coupled to another where the rules forbid it."),
    "expired allowance": ("warning", "A coupling was allowed until a date that is past."),
    "unhandled event": ("warning", "No module handles an event."),
    "split projection": ("warning", "Several handlers keep one table from different events."),
    "misspelt dependency": (
        "warning",
        "A module depends on one that is missing, and whose name is similar to an existing one.",
    ),
    "possible dependency": ("info", "A module names another's table; whether it uses it is uncertain."),
    "unused allowance": ("info", "The rules allow a coupling that does not exist."),
    "no longer happens": ("info", "The baseline has a finding that no longer occurs."),
}

# No rule makes less of these, and no baseline hides them, where erpkit starts the modules.
REFUSED = frozenset(kind for kind, (severity, _) in FINDINGS.items() if severity == "error") - {
    "invalid manifest", "not installable",
}  # fmt: skip
