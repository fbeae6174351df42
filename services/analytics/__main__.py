"""Entry point of analytics."""

from libs.common.server import main
from services.analytics.app import create_app
from services.analytics.settings import AnalyticsSettings

main(AnalyticsSettings, create_app)
