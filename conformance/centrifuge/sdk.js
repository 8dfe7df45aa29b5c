// Chat clients made of the public SDK.

import { Centrifuge } from 'centrifuge';
import WebSocket from 'ws';

/** Resolves to the context of the emitter's next event of this name. */
export function next(emitter, event) {
  return new Promise((resolve) => emitter.once(event, resolve));
}

/** A client of the relay for one test `t`, connecting over a `network` that the test can cut. */
export function connect(t, relay, user, options = {}) {
  const network = new Network();
  const data = user === undefined ? undefined : { user };
  const client = new Centrifuge(relay.url, { websocket: network.socketClass, data, minReconnectDelay: 20, maxReconnectDelay: 200, ...options });
  t.after(() => client.disconnect());
  client.connect();
  return { client, network };
}

/** What lies between one client and the relay. `sockets` are those opened so far, the current one last. */
class Network {
  sockets = [];
  #up = true;

  /** The WebSocket class of the client: while the network is down it finds nobody. */
  get socketClass() {
    const network = this;
    return class extends WebSocket {
      constructor(url, ...rest) {
        super(network.#up ? url : 'ws://127.0.0.1:1', ...rest);
        if (network.#up) network.sockets.push(this);
      }
    };
  }

  get socket() {
    return this.sockets.at(-1);
  }

  /** Destroys the connection without a close frame; the client may come back at once. */
  tear() {
    this.socket.terminate();
  }

  /** Destroys the connection and lets no other through until `restore`. */
  cut() {
    this.#up = false;
    this.tear();
  }

  restore() {
    this.#up = true;
  }
}

/** Joins a room; resolves once subscribed, to the subscription, its `subscribed` contexts and an inbox of its messages. */
export async function join(client, room, options = {}) {
  const subscription = client.newSubscription(room, options);
  const joins = [];
  subscription.on('subscribed', (context) => joins.push(context));
  const inbox = new Inbox(subscription);
  const subscribed = next(subscription, 'subscribed');
  subscription.subscribe();
  await subscribed;
  return { subscription, joins, inbox };
}

/** Publishes `text 1` … `text count`, each after the one before it was acked. */
export async function publishMany(subscription, text, count) {
  for (let i = 1; i <= count; i++) await subscription.publish(`${text} ${i}`);
}

/** What `publishMany` publishes. */
export function texts(text, count) {
  return Array.from({ length: count }, (_, i) => `${text} ${i + 1}`);
}

/** Every publication of a subscription, in order of arrival. */
class Inbox {
  publications = [];
  #waiting = [];

  constructor(subscription) {
    subscription.on('publication', (publication) => {
      this.publications.push(publication);
      this.#waiting = this.#waiting.filter(({ count, resolve }) => this.publications.length < count || resolve());
    });
  }

  /** Resolves once at least `count` publications have come. */
  async holds(count) {
    if (this.publications.length < count) await new Promise((resolve) => this.#waiting.push({ count, resolve }));
  }

  get bodies() {
    return this.publications.map((publication) => publication.data);
  }

  get offsets() {
    return this.publications.map((publication) => publication.offset);
  }
}
