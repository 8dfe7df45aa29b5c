import assert from 'node:assert/strict';
import { after } from 'node:test';

import { test } from '../limited.js';
import { connected } from '../plain.js';
import { startRelay } from '../relay.js';
import { connect, join, next } from '../sdk.js';

const relay = await startRelay({ after });

/** A client whose connection must not end by itself. */
async function steady(t, user) {
  const { client, network } = connect(t, relay, user);
  await next(client, 'connected');
  const lost = [];
  client.on('connecting', ({ code, reason }) => lost.push(`${code} ${reason}`));
  return { client, network, lost };
}

test('mount, unmount, mount at once leaves one subscription and the connection as it was', async (t) => {
  for (let round = 0; round < 20; round++) {
    const { client, lost } = await steady(t, 'ann');
    const room = `strict ${round}`;
    const first = client.newSubscription(room);
    first.subscribe();
    first.unsubscribe();
    client.removeSubscription(first);
    const { subscription, inbox } = await join(client, room);
    await subscription.publish('once');
    await inbox.holds(1);
    await client.history(room, { limit: 1 });
    assert.deepEqual([lost, inbox.bodies], [[], ['once']]);
    client.disconnect();
  }
});

test('subscribing and leaving in a loop ends as the last command says', async (t) => {
  const { client, lost } = await steady(t, 'ann');
  const bob = await connected(t, relay, 'bob');
  for (const ends of ['subscribed', 'unsubscribed']) {
    const room = `loop ${ends}`;
    const subscription = client.newSubscription(room);
    const heard = [];
    subscription.on('publication', ({ data }) => heard.push(data));
    for (let i = 0; i < 10; i++) {
      subscription.subscribe();
      subscription.unsubscribe();
    }
    if (ends === 'subscribed') {
      subscription.subscribe();
      await subscription.ready(5000);
    }
    await client.history(room, { limit: 1 });
    await bob.ask({ publish: { channel: room, data: 'anybody?' } });
    await client.history(room, { limit: 1 });
    // A push would have come before the reply; a paced one comes with this.
    await join(client, `${room}, after`);
    assert.deepEqual([lost, heard], [[], ends === 'subscribed' ? ['anybody?'] : []]);
  }
});

test('a leave in the same frame as its join is answered after it, and nothing comes any more', async (t) => {
  const [ann, bob] = [await connected(t, relay, 'ann'), await connected(t, relay, 'bob')];
  for (let id = 1000; id < 1040; id += 2) {
    const room = `ghost ${id}`;
    ann.send(`{"id":${id},"subscribe":{"channel":"${room}"}}\n{"id":${id + 1},"unsubscribe":{"channel":"${room}"}}`);
    const replies = [await ann.take((line) => line.id >= 1000), await ann.take((line) => line.id >= 1000)];
    assert.deepEqual(replies.map((reply) => Object.keys(reply)), [['id', 'subscribe'], ['id', 'unsubscribe']]);
    await bob.ask({ publish: { channel: room, data: 'are you there?' } });
    await ann.ask({ history: { channel: room, limit: 1 } });
    assert.ok(!ann.has((line) => line.push), 'a push after the leave');
  }
});
