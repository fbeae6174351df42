"""`python -m services.guardrails`: start the service."""

from libs.common.server import main
from services.guardrails.app import create_app
from services.guardrails.settings import GuardrailsSettings

main(GuardrailsSettings, create_app)
