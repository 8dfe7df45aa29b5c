// A relay process of the binary in RELAY_BIN, on a port and in a data directory of its own.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

const binary = process.env.RELAY_BIN;
// Time is up for the whole file: end as usual, so that its relays end too.
process.once('SIGTERM', () => process.exit(143));
if (!binary) throw new Error('RELAY_BIN must name the relay binary');

/** Starts a relay for one test or suite `t`, after which the process and its data are gone. Resolves once it listens. */
export async function startRelay(t, ...flags) {
  const relay = new Relay(flags);
  t.after(() => relay.remove());
  await relay.start();
  return relay;
}

class Relay {
  #flags;
  #data = mkdtempSync(join(tmpdir(), 'relay-centrifuge-'));
  #address = '127.0.0.1:0';
  #process = null;

  constructor(flags) {
    this.#flags = flags;
  }

  /** Where Centrifuge clients connect. */
  get url() {
    return `ws://${this.#address}/connection/websocket`;
  }

  /** Starts the process: the first time on a free port, after `stop` on the same one, always on the same data. */
  async start() {
    const args = ['serve', '--listen', this.#address, '--data', this.#data, '--shards', '2', ...this.#flags];
    const child = spawn(binary, args, { stdio: ['ignore', 'ignore', 'pipe'] });
    this.#process = child;
    process.once('exit', () => child.kill('SIGKILL'));
    const log = [];
    const lines = createInterface({ input: child.stderr });
    this.#address = await new Promise((resolve, reject) => {
      lines.on('line', (line) => {
        log.push(line);
        const listening = /listening on (\S+:\d+)/.exec(line);
        if (listening) resolve(listening[1]);
      });
      child.once('error', reject);
      child.once('exit', (code, signal) => reject(new Error(`the relay ended (${code ?? signal}):\n${log.join('\n')}`)));
    });
  }

  /** Ends the process with a signal; resolves to its exit code, null when the signal killed it. */
  async stop(signal) {
    const child = this.#process;
    this.#process = null;
    const exit = once(child, 'exit');
    child.kill(signal);
    return (await exit)[0];
  }

  async remove() {
    if (this.#process && this.#process.exitCode === null) await this.stop('SIGKILL');
    rmSync(this.#data, { recursive: true, force: true });
  }
}
