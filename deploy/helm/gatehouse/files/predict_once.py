"""`python predict_once.py GATEWAY_URL KEY_FILE`: one real prediction; exit 0 when it is a decision.

`helm test` runs it in the gateway's image, with the standard library alone.
"""

import json
import sys
import urllib.request

PAYMENT = {"card_id": "card_00001234", "transaction_amount": 150.0, "merchant_id": "merchant_12345"}
ACTIONS = {"approve", "review", "challenge", "block", "decline"}


def main(url: str, key_file: str) -> int:
    """Send the payment and look at the answer."""
    with open(key_file) as file:
        key = file.read().strip()
    request = urllib.request.Request(
        f"{url}/score/fraud",
        data=json.dumps(PAYMENT).encode(),
        headers={"X-API-Key": key, "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        body = json.load(answer)
    is_decision = 0 <= body["fraud_score"] <= 1 and body["recommended_action"] in ACTIONS
    sys.stdout.write(f"{body['recommended_action']}: score {body['fraud_score']}\n")
    return 0 if is_decision else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
