// Node's `test` with a time limit, so that what hangs is named.

import { test as unlimited } from 'node:test';

export function test(name, body) {
  unlimited(name, { timeout: 60_000 }, body);
}
