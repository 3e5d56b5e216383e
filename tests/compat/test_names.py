"""The names of afnio's public API stand where programs look for them, and are this package's own objects."""

from __future__ import annotations

import importlib
import logging
import pkgutil

import pytest

import tellurio_sync as te
import tellurio_sync.compat
from tellurio_sync.compat.logging_config import configure_logging, set_logger_level

# Module of afnio -> names that programs import from there.
NAMES = {
    "": "GradientEdge MultiTurnMessages Node Variable autodiff cognitive functional get_backward_model_client "
    "is_grad_enabled load models no_grad optim save set_backward_model_client set_grad_enabled tellurio utils",
    "autodiff": "backward is_grad_enabled no_grad set_grad_enabled",
    "autodiff.basic_ops": "Add Split Sum",
    "autodiff.evaluator": "DeterministicEvaluator ExactMatchEvaluator LMJudgeEvaluator",
    "autodiff.function": "Function",
    "autodiff.grad_mode": "is_grad_enabled no_grad set_grad_enabled",
    "autodiff.graph": "GradientEdge Node",
    "autodiff.lm_ops": "ChatCompletion",
    "cognitive": "Add ChatCompletion DeterministicEvaluator ExactMatchEvaluator LMJudgeEvaluator Module Parameter "
    "Split Sum add chat_completion deterministic_evaluator exact_match_evaluator lm_judge_evaluator split sum",
    "cognitive.functional": "add chat_completion deterministic_evaluator exact_match_evaluator lm_judge_evaluator "
    "split sum",
    "cognitive.modules": "Add ChatCompletion DeterministicEvaluator ExactMatchEvaluator LMJudgeEvaluator Module Split "
    "Sum",
    "cognitive.parameter": "Parameter",
    "logging_config": "configure_logging set_logger_level",
    "models": "ChatCompletionModel EmbeddingModel TextCompletionModel",
    "models.model": "ChatCompletionModel EmbeddingModel TextCompletionModel check_consent",
    "models.openai": "AsyncOpenAI OpenAI",
    "optim": "TGD tgd",
    "optim.optimizer": "Optimizer",
    "serialization": "load save",
    "tellurio": "configure_logging init log login suppress_variable_notifications",
    "tellurio.client": "InvalidAPIKeyError",
    "tellurio.project": "Project create_project delete_project get_project",
    "tellurio.run": "Run RunStatus init set_active_run",
    "tellurio.run_context": "get_active_run set_active_run",
    "tellurio.websocket_client": "LONG_RUNNING_METHODS TellurioWebSocketClient",
    "trainer": "Trainer",
    "utils": "data",
    "utils.data": "DataLoader Dataset RandomSampler Sampler SequentialSampler WeightedRandomSampler",
}


def module_named(name: str):
    return importlib.import_module(f"tellurio_sync.compat.{name}".rstrip("."))


@pytest.mark.parametrize("name", NAMES)
def test_the_names_are_there(name):
    module = module_named(name)
    assert set(NAMES[name].split()) <= set(module.__all__)
    assert all(hasattr(module, public) for public in module.__all__)


def test_the_table_has_every_module():
    found = {
        info.name.removeprefix("tellurio_sync.compat.")
        for info in pkgutil.walk_packages(tellurio_sync.compat.__path__, "tellurio_sync.compat.")
    }
    assert found | {""} == set(NAMES)


def test_they_are_the_objects_of_the_package():
    assert module_named("").Variable is te.Variable
    assert module_named("cognitive").Module is te.Module
    assert module_named("trainer").Trainer is te.Trainer
    assert module_named("utils.data").DataLoader is te.data.DataLoader
    assert module_named("optim").TGD is te.TGD
    assert module_named("tellurio").login is te.login


def test_logging_is_configured_once():
    logger = logging.getLogger("tellurio_sync")
    handlers, level = list(logger.handlers), logger.level
    try:
        configure_logging("debug")
        configure_logging("WARNING")
        assert len(logger.handlers) == len(handlers) + 1
        assert logger.level == logging.WARNING
        with pytest.raises(ValueError, match="verbosity"):
            configure_logging("loud")
        set_logger_level("tellurio_sync.x", logging.ERROR)
        assert logging.getLogger("tellurio_sync.x").level == logging.ERROR
    finally:
        logger.handlers[:] = handlers
        logger.setLevel(level)


def test_projects_belong_to_the_current_session(tellurio_session, tellurio_backend):
    from tellurio_sync.compat.tellurio.project import create_project, delete_project, get_project

    namespace = tellurio_backend.namespace
    project = create_project(namespace, "Moved over")
    assert get_project(namespace, project.slug).uuid == project.uuid
    delete_project(namespace, project.slug)
    assert get_project(namespace, project.slug) is None
