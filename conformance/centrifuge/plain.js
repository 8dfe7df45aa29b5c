// A plain WebSocket that speaks the protocol's JSON lines, as one would by hand.

import WebSocket from 'ws';

/** Opens a socket to the relay for one test `t`. */
export async function open(t, relay) {
  const socket = new WebSocket(relay.url);
  t.after(() => socket.terminate());
  const plain = new Plain(socket);
  await new Promise((resolve, reject) => socket.once('open', resolve).once('error', reject));
  return plain;
}

/** Opens a socket and connects as this user. */
export async function connected(t, relay, user) {
  const plain = await open(t, relay);
  await plain.ask({ connect: { data: { user } } });
  return plain;
}

class Plain {
  /** Resolves to the close code once the relay closed the socket. */
  closed;
  #socket;
  #id = 0;
  #lines = [];
  #waiting = [];

  constructor(socket) {
    this.#socket = socket;
    this.closed = new Promise((resolve) => socket.once('close', resolve));
    socket.on('message', (message) => {
      for (const line of message.toString().split('\n').filter(Boolean)) this.#lines.push(JSON.parse(line));
      this.#waiting = this.#waiting.filter((retry) => !retry());
    });
  }

  /** Sends text as it is. */
  send(text) {
    this.#socket.send(text);
  }

  /** Takes the first line received that satisfies `wanted`, waiting for it if need be. */
  take(wanted) {
    return new Promise((resolve) => {
      const attempt = () => {
        const at = this.#lines.findIndex(wanted);
        if (at >= 0) resolve(this.#lines.splice(at, 1)[0]);
        return at >= 0;
      };
      if (!attempt()) this.#waiting.push(attempt);
    });
  }

  /** Whether such a line was received and not taken. */
  has(wanted) {
    return this.#lines.some(wanted);
  }

  /** Sends a command and resolves to its reply. */
  ask(command) {
    const id = ++this.#id;
    this.send(JSON.stringify({ id, ...command }));
    return this.take((line) => line.id === id);
  }

  /** Takes the next publication of a room. */
  async publication(room) {
    const line = await this.take((one) => one.push?.channel === room && one.push.pub);
    return line.push.pub;
  }
}
