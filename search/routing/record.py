"""A routing study's table in the ledger: one MLflow run with all its numbers and files.

The same evaluation written again changes nothing; other settings make another run.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from search.ledger.lookup import open_experiment
from search.ledger.mirror import open_ledger, said
from search.ledger.run_fields import NOTE, TOKEN, as_metrics, as_params, as_tags, millis, requests
from search.ledger.writer import Ledger
from search.routing.evaluation import (
    DENSE,
    HINDSIGHT,
    MAJORITY,
    ORACLE,
    RANDOM,
    ROUTER,
    STATIC,
    Evaluation,
)
from search.routing.load import store_of
from search.routing.stages import Route
from trainables.core.cache import digest
from trainables.core.places import git_commit
from trainables.routing.spec import RouteSpec

if TYPE_CHECKING:
    from mlflow.entities import Metric

FILES = ("sets.csv", "router.json", "evaluation.json")
SHORT = {  # what a policy is called in the name of a metric
    DENSE: "dense",
    ROUTER: "router",
    ORACLE: "oracle",
    RANDOM: "random",
    STATIC: "static",
    HINDSIGHT: "static_in_hindsight",
    MAJORITY: "most_often_best",
}


def keep(route: Route, found: Evaluation, timing: Mapping[str, float]) -> str:
    """Write the evaluation to the ledger; returns where it is, or why it is not, in a line.

    The results are files anyway: a ledger that does not answer keeps nobody from them.
    """
    try:
        ledger = open_ledger(store_of(route.spec))
        run_id = _write(ledger, route, found, timing)
    except Exception as error:  # whatever MLflow raises, the results are there
        return f"the ledger does not answer, `rayduce route eval` writes it later: {said(error)}"
    return f"ledger: run {run_id} in {ledger.name}"


def _write(ledger: Ledger, route: Route, found: Evaluation, timing: Mapping[str, float]) -> str:
    run_id, client = _run(ledger, route.spec), ledger.client
    commit = git_commit() or "unknown"
    tags = {"state": "finished", NOTE: found.verdict(), "git_commit": commit}
    tags["mlflow.source.git.commit"] = commit
    params = as_params(_params(route.spec))
    for request in requests(_metrics(found, timing), params, as_tags(tags)):
        client.log_batch(run_id, **request)
    ledger.log_files(run_id, {name: (route.root / name).read_text("utf-8") for name in FILES})
    client.set_terminated(run_id, "FINISHED")
    return run_id


def _run(ledger: Ledger, spec: RouteSpec) -> str:
    """The run of these settings, found by its tag or made."""
    experiment = open_experiment(ledger.client, ledger.store, local=ledger.local)
    token = f"route-{digest(spec.model_dump(exclude={'resources'}))}"
    for run in ledger.client.search_runs([experiment], f"tags.`{TOKEN}` = '{token}'"):
        return str(run.info.run_id)
    tags = {
        TOKEN: token,
        "study": spec.name,
        "space": "route",
        "mlflow.source.name": f"rayduce route eval {spec.name}",
        "mlflow.source.type": "JOB",
    }
    made = ledger.client.create_run(experiment, millis(None), tags, run_name=spec.name)
    return str(made.info.run_id)


def _params(spec: RouteSpec) -> dict[str, Any]:
    return {
        "model": spec.model.id,
        "tasks": list(spec.tasks),
        "routed": spec.routed(),
        "budget": spec.sets.budget,
        "losses": list(spec.sets.losses),
        "encoder": spec.router.encoder,
        "seed": spec.seed,
    }


def _metrics(found: Evaluation, timing: Mapping[str, float]) -> list["Metric"]:
    """`router/accuracy/TASK`, `router/accuracy`, `router/regret`, `speed/...`"""
    values: dict[str, float] = {}
    for policy, row in found.rows.items():
        for name, value in row.items():
            kind = f"accuracy/{name}" if name in found.tasks else name
            kind = "accuracy" if name == "mean" else kind
            values[f"{SHORT[policy]}/{kind}"] = value
    for policy, row in found.harness.items():
        way = SHORT.get(policy, policy.replace(" ", "_"))
        values |= {f"{way}/harness/{name}": value for name, value in row.items()}
    values |= {f"router/share/{index}": share for index, share in found.router_share.items()}
    values |= {f"speed/{name}": value for name, value in timing.items()}
    return as_metrics([(name, value, 0) for name, value in values.items()], millis(None))
