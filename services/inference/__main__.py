"""`python -m services.inference`: run the service."""

from libs.common.server import main
from services.inference.app import create_app
from services.inference.settings import InferenceSettings

if __name__ == "__main__":
    main(InferenceSettings, create_app)
