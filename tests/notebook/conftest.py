from ..session.conftest import backend, make_session, session  # noqa: F401 - fixtures
