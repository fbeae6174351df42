"""A small synchronous client for scoring, on the standard library alone.

One client keeps one connection and serves one thread; make one per thread. A connection that the
server closed while idle is opened again once, for scoring is safe to repeat (one more event, the
same answer); any other failure is raised.
"""

import http.client
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit


class GatehouseError(Exception):
    """A call that was not answered with 2xx.

    Attributes:
        status: HTTP status, 0 when no answer came.
        code: the problem's stable code, empty without one.
        problem: the whole problem document.
    """

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        super().__init__(
            f"{status}: {problem.get('detail') or problem.get('title') or 'no answer'}"
        )
        self.status = status
        self.code = str(problem.get("code", ""))
        self.problem = problem


class GatehouseClient:
    """Calls the scoring endpoints.

        with GatehouseClient("http://127.0.0.1:8080", api_key) as client:
            print(client.score_fraud("card_00001234", 150.0)["recommended_action"])

    Args:
        base_url: of the gateway, http or https.
        api_key: sent as `X-API-Key`; None sends none.
        timeout_s: bound on connecting and on each read.
        headers: sent with every call, for example a correlation id.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        timeout_s: float = 10.0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("base_url must be an http or https URL")
        kind = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        self._connection = kind(parts.hostname, parts.port, timeout=timeout_s)
        self._prefix = parts.path.rstrip("/")
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        self._headers |= headers or {}
        if api_key is not None:
            self._headers["X-API-Key"] = api_key

    def score_fraud(
        self,
        card_id: str,
        amount: float,
        *,
        merchant_id: str | None = None,
        mcc_code: str | None = None,
        country_code: str | None = None,
        transaction_id: str | None = None,
        explain: bool = False,
    ) -> dict[str, Any]:
        """Score a card payment.

        Args:
            card_id: the card.
            amount: major units, for example 150.0.
            merchant_id: the shop.
            mcc_code: ISO 18245 category, four digits.
            country_code: ISO 3166 alpha-2.
            transaction_id: id under which the payment is or will be ingested.
            explain: add exact contributions per feature.

        Raises:
            GatehouseError: refused or failed.
        """
        body = {
            "card_id": card_id,
            "transaction_amount": amount,
            "merchant_id": merchant_id,
            "mcc_code": mcc_code,
            "country_code": country_code,
            "transaction_id": transaction_id,
            "explain": explain or None,
        }
        return self._post("/score/fraud", body)

    def score_personalization(
        self,
        user_id: str,
        item_id: str,
        *,
        item_category: str | None = None,
        item_price: float | None = None,
        session_id: str | None = None,
    ) -> dict[str, Any]:
        """Score a user and an item.

        Raises:
            GatehouseError: refused or failed.
        """
        body = {
            "user_id": user_id,
            "item_id": item_id,
            "item_category": item_category,
            "item_price": item_price,
            "session_id": session_id,
        }
        return self._post("/score/personalization", body)

    def score_batch(
        self, model_type: str, requests: list[dict[str, Any]], *, batch_id: str | None = None
    ) -> dict[str, Any]:
        """Score up to 1,000 requests of one kind (`fraud_detection` or `personalization`).

        Raises:
            GatehouseError: the batch as a whole was refused; items carry their own errors.
        """
        body = {"model_type": model_type, "requests": requests, "batch_id": batch_id}
        return self._post("/score/batch", body)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def __enter__(self) -> "GatehouseClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        present = {name: value for name, value in body.items() if value is not None}
        payload = json.dumps(present, allow_nan=False).encode()
        try:
            status, answer = self._exchange(path, payload)
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            self._connection.close()
            status, answer = self._exchange(path, payload)
        try:
            document = json.loads(answer)
        except ValueError:
            document = {}
        if not 200 <= status < 300:
            raise GatehouseError(status, document if isinstance(document, dict) else {})
        return dict(document)

    def _exchange(self, path: str, payload: bytes) -> tuple[int, bytes]:
        try:
            self._connection.request("POST", self._prefix + path, payload, self._headers)
            response = self._connection.getresponse()
            return response.status, response.read()
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            raise
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise GatehouseError(0, {"detail": type(error).__name__}) from error
