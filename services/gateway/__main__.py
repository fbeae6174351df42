"""`python -m services.gateway`: start the gateway."""

from libs.common.server import main
from services.gateway.app import create_app
from services.gateway.settings import GatewaySettings

if __name__ == "__main__":
    main(GatewaySettings, create_app)
