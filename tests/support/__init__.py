"""What tests are made of.

Fixtures, which `tests/conftest.py` loads for all tests:

| module | what it has |
|---|---|
| `postgres_fixtures` | `server`, `database`, `matrix_server`, `matrix_database`: PostgreSQL, a fresh database |
| `lab_fixtures` | `lab`, `matrix_lab`, `trap`: a source, a destination file and the pipeline between them |
| `proxy_fixture` | `proxy`: breaks and stalls connections on command |
| `dagster_fixtures` | `instance`: a Dagster instance with SQLite storage |
| `silence_fixture` | `impatient`: short limits of silence |

Arranging and judging:

| module | what it has |
|---|---|
| `lab` | `Lab`: arrange with SQL, capture, compare; parameters that many tests share |
| `oracle` | `assert_equal`: whether the destination is what the source is, through nothing that dbmazz decodes with |
| `fold` | a changelog folded back into rows |
| `reading` | reads a destination file |
| `type_values` | values of every type |
| `examples` | how many examples a property test tries |
| `before` | something that happens at an exact moment of a run |
| `worker`, `worker_process` | a capture in a process of its own, for a test to kill |
| `following` | `follow` in a process of its own, whose status and messages a test reads |
| `rewriting_proxy` | a proxy that rewrites messages and drops startup parameters, with or without TLS |
| `statement_log` | what the sink says to DuckDB |
| `lists` | a source and a sink of lists: the least that the protocols of `model` ask for |
| `pgoutput_encoder`, `pgoutput_streams` | pgoutput messages and generated streams |

Helpers of one folder are there: `tests/cli/command.py` (the `dbmazz` command), `tests/demo` (processes, a browser),
`tests/dagster/conftest.py`, `tests/examples/conftest.py` (the shop of `examples/`), `tests/soak` (generated workloads).
"""
