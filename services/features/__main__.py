"""`python -m services.features`."""

from libs.common.server import main
from services.features.app import create_app
from services.features.settings import FeaturesSettings

main(FeaturesSettings, create_app)
