"""Measure receive loop, decoder and merge, each alone: `python -m benchmarks.stages URL SLOT PUBLICATION LSN`.

The program prints one JSON object. It is a separate process, since it holds the whole backlog in memory between stages.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from dbmazz_core.connectors.sinks.duckdb import DuckDBSink
from dbmazz_core.connectors.sources.postgres.parser.block import MessageBlock
from dbmazz_core.connectors.sources.postgres.parser.decoder import Decoder
from dbmazz_core.connectors.sources.postgres.parser.framing import frame
from dbmazz_core.connectors.sources.postgres.parser.relations import Relations
from dbmazz_core.connectors.sources.postgres.replication.connection import open_stream
from dbmazz_core.engine.net_effect import compact
from dbmazz_core.lsn import INVALID_LSN, Lsn
from dbmazz_core.model.batch import ChangeBatch
from dbmazz_core.model.checkpoint import Checkpoint
from dbmazz_core.model.policies import Mode
from dbmazz_core.model.stream import StreamFormat
from dbmazz_core.model.table_shape import TableShape
from dbmazz_core.settings.config import SinkConfig, SourceConfig
from dbmazz_core.settings.secret_url import SecretUrl
from dbmazz_core.settings.tables import parse_tables
from dbmazz_core.table_ref import TableRef

T = TypeVar("T")
_TABLE = TableRef("public", "orders")
_FLUSH = 250_000


def main(url: str, slot: str, publication: str, end: str) -> None:
    """Measure all stages up to the LSN `end`, and print wall and CPU seconds by stage."""
    report: dict[str, dict[str, float]] = {}
    blocks = _timed("receive", report, lambda: _receive(SecretUrl(url), slot, publication, Lsn.parse(end)))
    batches = _timed("decode", report, lambda: _decode(blocks))
    blocks.clear()
    with tempfile.TemporaryDirectory() as directory:
        _timed("merge", report, lambda: _merge(batches, Path(directory) / "stages.duckdb"))
    print(json.dumps({"changes": sum(map(len, batches)), "stages": report}))  # noqa: T201


def _timed(name: str, report: dict[str, dict[str, float]], work: Callable[[], T]) -> T:
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    report[name] = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    return result


def _receive(url: SecretUrl, slot: str, publication: str, end: Lsn) -> list[MessageBlock]:
    config = SourceConfig(url=url, tables=parse_tables(str(_TABLE)), slot=slot, publication=publication)
    reader = open_stream(config, INVALID_LSN, binary=True)
    blocks: list[MessageBlock] = []
    try:
        while not blocks or blocks[-1].server_end < end:
            block = reader.read(0.1)
            if block is None:
                reader.request_keepalive()
            else:
                blocks.append(block)
    finally:
        reader.close()
    return blocks


def _decode(blocks: list[MessageBlock]) -> list[ChangeBatch]:
    decoder = Decoder(Relations(lambda _: True, {_TABLE: ("id",)}, format=StreamFormat()))
    batches: list[ChangeBatch] = []
    open_transaction = None
    for block in blocks:
        framed = frame(block, open_transaction)
        open_transaction = framed.open
        batches += [e for e in decoder.decode(framed, 0, len(block)) if isinstance(e, ChangeBatch)]
    return batches


def _merge(batches: list[ChangeBatch], path: Path) -> None:
    checkpoint = Checkpoint("stages", Lsn(1), "", 1, "")
    with DuckDBSink(SinkConfig(url=str(path)), feed="stages") as sink:
        with sink.begin() as transaction:
            table = TableShape.of(batches[0].schema, None)
            transaction.create_table(table, snapshot_lsn=Lsn(1), mode=Mode.MIRROR, complete=True)
            transaction.commit(checkpoint)
        pending: list[ChangeBatch] = []
        for batch in [*batches, None]:
            if batch is not None:
                pending.append(batch)
            if pending and (batch is None or sum(map(len, pending)) >= _FLUSH):
                with sink.begin() as transaction:
                    transaction.apply(compact(pending))
                    transaction.commit(checkpoint)
                pending = []


if __name__ == "__main__":
    main(*sys.argv[1:])
