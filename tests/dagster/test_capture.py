"""Windows as runs: what is materialized, with which metadata, and what happens to the rest."""

from __future__ import annotations

import dagster as dg
import pytest

from tests.dagster.conftest import Shop, key

CUSTOMERS, ORDERS = key("public", "customers"), key("public", "orders")

PLOTTED = (
    "inserts",
    "updates",
    "deletes",
    "dagster/row_count",
    "lag_bytes",
    "lag_seconds",
    "duration_s",
    "changes_per_second",
    "confirmed_lsn_number",
)


def change_orders(shop: Shop) -> None:
    shop.database.execute("""
        INSERT INTO orders VALUES (11, 1, 5, 'new'), (12, 2, 6, 'new');
        UPDATE orders SET amount = 0 WHERE id = 1;
        DELETE FROM orders WHERE id IN (2, 3, 4);
    """)


def test_first_run_captures_and_materializes_everything(shop: Shop) -> None:
    result = shop.run()
    assert result.success
    done = shop.materializations(result)
    assert set(done) == {CUSTOMERS, ORDERS, shop.checkpoint}
    assert done[ORDERS]["snapshot_rows"] == 10
    assert done[ORDERS]["dagster/row_count"] == 10
    columns = done[ORDERS]["dagster/column_schema"].columns
    assert [(c.name, c.type, c.constraints.nullable) for c in columns] == [
        ("id", "bigint", False),
        ("customer_id", "bigint", True),
        ("amount", "numeric(12,2)", True),
        ("note", "text", True),
    ]
    shop.equal()


def test_metadata_plots(captured: Shop) -> None:
    change_orders(captured)
    done = captured.materializations(captured.run())
    orders = done[ORDERS]
    assert (orders["inserts"], orders["updates"], orders["deletes"]) == (2, 1, 3)
    assert orders["dagster/row_count"] == 9
    for name in PLOTTED:
        # Numbers that GraphQL carries as numbers: floats, and integers of 32 bits.
        assert isinstance(orders[name], float) or abs(orders[name]) < 2**31, name
    assert orders["stop_reason"] == done[captured.checkpoint]["stop_reason"] == "caught_up"
    assert done[captured.checkpoint]["changes"] == 6
    ((confirmed,),) = captured.database.fetch(
        "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = %s", captured.slot
    )
    assert orders["confirmed_lsn"] == confirmed
    captured.equal()


def test_subset_materializes_what_is_selected_and_logs_the_rest(captured: Shop) -> None:
    change_orders(captured)
    captured.database.execute("UPDATE customers SET name = 'x' WHERE id = 1")
    result = captured.run("customers")
    assert result.success
    assert set(captured.materializations(result)) == {CUSTOMERS, ORDERS, captured.checkpoint}
    captured.equal()


def test_unchanged_is_skipped(captured: Shop) -> None:
    change_orders(captured)
    result = captured.run()
    assert result.success
    assert set(captured.materializations(result)) == {ORDERS, captured.checkpoint}


def test_selected_alone_and_unchanged_succeeds(captured: Shop) -> None:
    result = captured.run("customers")
    assert result.success
    assert set(captured.materializations(result)) == {captured.checkpoint}


def test_unchanged_can_be_observed(captured: Shop) -> None:
    captured.options["unchanged"] = "observe"
    result = captured.run("customers")
    assert result.success
    assert set(captured.materializations(result)) == {captured.checkpoint}
    (observed,) = (e for e in result.all_events if e.event_type is dg.DagsterEventType.ASSET_OBSERVATION)
    assert observed.asset_key == CUSTOMERS


def test_unchanged_can_be_materialized(captured: Shop) -> None:
    captured.options["unchanged"] = "materialize"
    done = captured.materializations(captured.run())
    assert set(done) == {CUSTOMERS, ORDERS, captured.checkpoint}
    assert done[CUSTOMERS]["inserts"] == 0


def test_what_this_instance_never_saw_is_materialized(captured: Shop) -> None:
    with dg.DagsterInstance.ephemeral() as other:
        captured.instance = other
        assert set(captured.materializations(captured.run())) == {CUSTOMERS, ORDERS, captured.checkpoint}


def test_empty_window_materializes_the_checkpoint_only(captured: Shop) -> None:
    done = captured.materializations(captured.run())
    assert set(done) == {captured.checkpoint}
    assert done[captured.checkpoint]["changes"] == 0


def test_limits_from_the_launchpad(captured: Shop) -> None:
    for identity in range(100, 140):
        captured.database.execute("INSERT INTO orders VALUES (%s, 1, 1, NULL)", identity)
    done = captured.materializations(captured.run(config={"max_changes": 10}))
    assert done[captured.checkpoint]["stop_reason"] == "max_changes"
    assert 10 <= done[captured.checkpoint]["changes"] < 40
    assert captured.run().success
    captured.equal()


def test_limits_must_make_sense(captured: Shop) -> None:
    with pytest.raises(dg.DagsterInvalidConfigError):
        captured.run(config={"max_changes": "many"})
    assert not captured.run(config={"max_changes": 0}).success


def test_resnapshot_of_the_selected(captured: Shop) -> None:
    change_orders(captured)
    result = captured.run("customers", config={"resnapshot": True})
    assert result.success
    done = captured.materializations(result)
    assert done[CUSTOMERS]["snapshot_rows"] == 3
    assert "snapshot_rows" not in done[ORDERS]
    captured.equal()


def test_resnapshot_by_name(captured: Shop) -> None:
    done = captured.materializations(captured.run(config={"resnapshot_tables": ["public.orders"]}))
    assert done[ORDERS]["snapshot_rows"] == 10
    assert CUSTOMERS not in done
    captured.equal()


def test_a_table_added_to_the_settings(captured: Shop) -> None:
    captured.database.execute("INSERT INTO unrelated VALUES (1, 'x')")
    wider = captured.with_env(TABLES="public.customers, public.orders, public.unrelated")
    done = wider.materializations(wider.run())
    assert done[key("public", "unrelated")]["snapshot_rows"] == 1


def test_checks_of_keys_and_slot(captured: Shop) -> None:
    definitions = captured.definitions()
    job = definitions.resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(instance=captured.instance, raise_on_error=False)
    evaluations = {(e.asset_key, e.check_name): e for e in result.get_asset_check_evaluations()}
    assert evaluations[captured.checkpoint, "slot_health"].passed
    assert (ORDERS, "key_is_unique") not in evaluations  # unchanged, so neither is it checked

    change_orders(captured)
    result = job.execute_in_process(instance=captured.instance, raise_on_error=False)
    evaluations = {(e.asset_key, e.check_name): e for e in result.get_asset_check_evaluations()}
    assert evaluations[ORDERS, "is_streaming"].passed
    orders = evaluations[ORDERS, "key_is_unique"]
    assert orders.passed
    assert orders.metadata["duplicated_keys"].value == 0


def test_modes_in_metadata_and_checks(shop: Shop) -> None:
    kept = shop.with_env(MODE="changelog, public.orders=soft_delete")
    assert kept.run().success
    change_orders(kept)
    kept.database.execute("UPDATE customers SET name = 'new'")
    job = kept.definitions().resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(instance=kept.instance, raise_on_error=False)
    assert result.success
    done = kept.materializations(result)
    assert (done[ORDERS]["mode"], done[ORDERS]["dagster/row_count"]) == ("soft_delete", 9)
    assert (done[CUSTOMERS]["mode"], done[CUSTOMERS]["dagster/row_count"]) == ("changelog", 6)
    checks = {e.asset_key: e for e in result.get_asset_check_evaluations() if e.check_name == "key_is_unique"}
    assert checks[ORDERS].passed
    assert checks[ORDERS].metadata["duplicated_keys"].value == 0
    assert checks[CUSTOMERS].passed
    assert "changelog" in str(checks[CUSTOMERS].description)


def test_a_filled_quarantine_is_a_warning_and_other_tables_have_no_such_check(shop: Shop) -> None:
    kept = shop.with_env(ON_BAD_VALUE="error, public.orders=quarantine")
    job = kept.definitions().resolve_implicit_global_asset_job_def()

    def check() -> dg.AssetCheckEvaluation:
        kept.database.execute("UPDATE orders SET note = 'touched' WHERE id = 10")
        result = job.execute_in_process(instance=kept.instance, raise_on_error=False)
        assert result.success
        (found,) = (e for e in result.get_asset_check_evaluations() if e.check_name == "quarantine_is_empty")
        assert found.asset_key == ORDERS
        return found

    assert check().passed
    kept.database.execute("UPDATE orders SET amount = 'NaN' WHERE id IN (1, 2)")
    found = check()
    assert not found.passed
    assert found.severity is dg.AssetCheckSeverity.WARN
    assert found.metadata["quarantined"].value == 2
    assert "the value of amount (numeric(12,2)) cannot be held by" in str(found.description)


def test_columns_are_shown_as_they_are_captured(shop: Shop) -> None:
    chosen = shop.with_env(
        COLUMNS_EXCLUDE="public.orders.note", COLUMNS_MASK="public.customers.name=hash", MASK_KEY="a secret of ours"
    )
    done = chosen.materializations(chosen.run())
    columns = {table: done[table]["dagster/column_schema"].columns for table in (ORDERS, CUSTOMERS)}
    assert [column.name for column in columns[ORDERS]] == ["id", "customer_id", "amount"]
    assert [(column.name, column.description) for column in columns[CUSTOMERS]] == [
        ("id", None), ("name", "masked: hash"),
    ]  # fmt: skip


def test_run_started_by_hand_carries_the_slot(captured: Shop) -> None:
    job = captured.definitions().resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(instance=captured.instance, asset_selection=[ORDERS])
    run = captured.instance.get_run_by_id(result.run_id)
    assert run is not None
    assert run.tags["dbmazz/slot"] == captured.slot
