// What to do about a failure, by its code: mend the prompt, mend the account, or simply run again.

const REWRITE = "Rewrite the prompt: the same input would fail again.";
const AGAIN = "Try again: krea-async render with the same list takes the failed rows up once more.";
const ADVICE = {
  content_policy_violation: "Rewrite the prompt: the gateway's moderation refused it.",
  invalid_parameters: REWRITE,
  invalid_request: REWRITE,
  generation_failed_no_content: REWRITE,
  image_processing_error: REWRITE,
  image_dimension_mismatch: "Ask for another size or quality.",
  request_cancelled: "The task was cancelled. Run again to make the picture.",
  generation_timeout: AGAIN,
  resource_exhausted: AGAIN,
  service_error: AGAIN,
  service_unavailable: AGAIN,
  internal_error: AGAIN,
  unknown_error: AGAIN,
  quota_exceeded: "Run again, more slowly (--rate or --concurrency).",
  rate_limit_exceeded: "Run again, more slowly (--rate or --concurrency).",
  resource_not_found: "The gateway does not know this task any more. Run again to make the picture.",
  unauthorized: "Check the key in EVOLINK_API_KEY; krea-async doctor looks at it.",
  model_access_denied: "Ask the account's owner for access to krea-2-turbo.",
  insufficient_quota: "Top the account up, then krea-async resume goes on where this run stopped.",
  disk_error: "Make room or mend the permissions here, then krea-async resume fetches the picture again.",
};
const CHARGED = { no: "Not charged.", yes: "Charged.", unknown: "Nobody knows whether it was charged." };

const adviceFor = (code) => ADVICE[code] ?? "krea-async report tells more; a later run tries what may succeed.";
const chargeOf = (row) => CHARGED[row.charged] ?? "";
