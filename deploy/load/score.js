// k6: an open-loop load on the two scores, with the objectives as thresholds.
//   k6 run -e BASE_URL=http://127.0.0.1:8080 -e API_KEY_FILE=.gatehouse/demo-api-key deploy/load/score.js
// RATE (per second, default 100) and DURATION (default 1m) may be set. The same load without k6:
//   python -m benchmarks.load
import http from "k6/http";
import { check } from "k6";
import exec from "k6/execution";

const base = __ENV.BASE_URL || "http://127.0.0.1:8080";
const key = (__ENV.API_KEY || open(__ENV.API_KEY_FILE || "../../.gatehouse/demo-api-key")).trim();
const rate = Number(__ENV.RATE || 100);
const duration = __ENV.DURATION || "1m";
const params = { headers: { "X-API-Key": key, "Content-Type": "application/json" } };

const arrivals = (share, name) => ({
  executor: "constant-arrival-rate",
  exec: name,
  rate: Math.max(1, Math.round(rate * share)),
  timeUnit: "1s",
  duration,
  preAllocatedVUs: 50,
  maxVUs: 500,
});

export const options = {
  scenarios: { fraud: arrivals(0.8, "fraud"), personalization: arrivals(0.2, "personalization") },
  thresholds: {
    http_req_failed: ["rate<0.01"],
    http_req_duration: ["p(95)<150", "p(99)<300"],
    dropped_iterations: ["count==0"],
    checks: ["rate>0.99"],
  },
};

const pad = (number, width) => String(number).padStart(width, "0");

export function fraud() {
  const turn = exec.scenario.iterationInTest;
  const body = {
    card_id: `card_${pad((turn * 7919) % 2000, 8)}`,
    transaction_amount: 1 + ((turn * 37) % 50000) / 100,
    merchant_id: `merchant_${pad((turn * 104729) % 500, 5)}`,
    mcc_code: "5411",
    country_code: "US",
  };
  const answer = http.post(`${base}/score/fraud`, JSON.stringify(body), params);
  check(answer, {
    "status is 200": (r) => r.status === 200,
    "score between 0 and 1": (r) => r.status === 200 && r.json("fraud_score") >= 0 && r.json("fraud_score") <= 1,
    "freshness is stated": (r) =>
      r.status === 200 && (r.json("feature_freshness_sec") === null || r.json("feature_freshness_sec") >= 0),
  });
}

export function personalization() {
  const turn = exec.scenario.iterationInTest;
  const body = {
    user_id: `user_${pad(turn % 5000, 8)}`,
    item_id: `item_electronics_${pad(turn % 100, 3)}`,
    item_category: "electronics",
    item_price: 299.99,
    session_id: `session_${turn % 1000}`,
  };
  const answer = http.post(`${base}/score/personalization`, JSON.stringify(body), params);
  check(answer, {
    "status is 200": (r) => r.status === 200,
    "probability between 0 and 1": (r) =>
      r.status === 200 && r.json("conversion_probability") >= 0 && r.json("conversion_probability") <= 1,
  });
}
