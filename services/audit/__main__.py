"""`python -m services.audit`: start the service."""

from libs.common.server import main
from services.audit.app import create_app
from services.audit.settings import AuditSettings

if __name__ == "__main__":
    main(AuditSettings, create_app)
