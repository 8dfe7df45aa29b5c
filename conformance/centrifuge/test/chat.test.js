import assert from 'node:assert/strict';
import { after } from 'node:test';

import { test } from '../limited.js';
import { startRelay } from '../relay.js';
import { connect, join, next, publishMany, texts } from '../sdk.js';

const relay = await startRelay({ after }, '--ping-interval-ms', '1000', '--idle-timeout-ms', '5000', '--user-publish-rate', '1000', '--session-publish-rate', '1000');

test('two clients chat in one room, in texts and in JSON objects', async (t) => {
  const ann = await join(connect(t, relay, 'ann').client, 'chat');
  const bob = await join(connect(t, relay, 'bob').client, 'chat');

  await ann.subscription.publish('안녕하세요 👋');
  await bob.inbox.holds(1);
  await bob.subscription.publish({ text: 'hi', nested: { list: [1, 2.5, null, true], big: 9007199254740991 } });
  await ann.inbox.holds(2);

  for (const { inbox } of [ann, bob]) {
    await inbox.holds(2);
    assert.deepEqual(inbox.bodies, ['안녕하세요 👋', { text: 'hi', nested: { list: [1, 2.5, null, true], big: 9007199254740991 } }]);
    assert.deepEqual(inbox.offsets, [1, 2]);
    assert.deepEqual(inbox.publications.map(({ info }) => info.user), ['ann', 'bob']);
    assert.deepEqual(inbox.publications.map(({ tags }) => tags), [undefined, undefined], 'tags are the application\'s');
  }
});

test('a publication names the client that published it, by the id of its connect reply', async (t) => {
  const [first, second] = [connect(t, relay, 'ann'), connect(t, relay, 'ann')];
  const ids = (await Promise.all([first, second].map(({ client }) => next(client, 'connected')))).map(({ client }) => client);
  for (const id of ids) assert.match(id, /^[0-9a-z]{13}$/);
  const here = await join(first.client, 'own messages');
  const there = await join(second.client, 'own messages');
  await here.subscription.publish('from the first');
  await there.subscription.publish('from the second');
  await here.inbox.holds(2);
  assert.deepEqual(here.inbox.publications.map(({ info }) => info.client), ids);

  first.network.tear();
  const { client: again } = await next(first.client, 'connected');
  assert.ok(!ids.includes(again), 'a connection has an id of its own');
});

test('data is stored and sent as it was spelled', async (t) => {
  const { client, network } = connect(t, relay, 'ann');
  const { subscription, inbox } = await join(client, 'spelling');
  const pushes = [];
  network.socket.on('message', (message) => pushes.push(message.toString()));
  const spelled = ['"a\\u0062c"', '{"b": 1.50, "a":[ ]}', '12345678901234567890123'];
  let id = 1_000_000;
  for (const data of spelled) network.socket.send(`{"id":${id++},"publish":{"channel":"spelling","data":${data}}}`);
  await subscription.publish('the last');
  await inbox.holds(spelled.length + 1);
  const told = pushes.join('\n');
  for (const data of spelled) assert.ok(told.includes(`"pub":{"data":${data},`), `${data} in ${told}`);
  assert.deepEqual(inbox.bodies.slice(0, 2), ['abc', { b: 1.5, a: [] }]);
});

test('a message stays in its room', async (t) => {
  const { client } = connect(t, relay, 'ann');
  const tea = await join(client, 'tea');
  const coffee = await join(client, 'coffee');
  await tea.subscription.publish('for tea');
  await coffee.subscription.publish('for coffee');
  await Promise.all([tea.inbox.holds(1), coffee.inbox.holds(1)]);
  assert.deepEqual([tea.inbox.bodies, coffee.inbox.bodies], [['for tea'], ['for coffee']]);
});

test('a client that names no user gets a name of its own', async (t) => {
  const rooms = await Promise.all([1, 2].map(() => join(connect(t, relay).client, 'anonymous')));
  for (const { subscription } of rooms) await subscription.publish('who am I?');
  await rooms[0].inbox.holds(2);
  const [first, second] = rooms[0].inbox.publications.map(({ info }) => info.user);
  assert.ok(first && second && first !== second, `${first} and ${second}`);
});

test('history gives the newest messages first, the page before them, those since an offset, and the head alone', async (t) => {
  const { subscription } = await join(connect(t, relay, 'ann').client, 'history');
  await publishMany(subscription, 'line', 20);
  const offsets = (page) => page.publications.map(({ offset }) => offset);

  const newest = await subscription.history({ limit: 3, reverse: true });
  assert.deepEqual(offsets(newest), [20, 19, 18], 'newest first');
  assert.deepEqual(newest.publications.map(({ data }) => data), ['line 20', 'line 19', 'line 18']);
  const before = await subscription.history({ limit: 3, reverse: true, since: { offset: 18, epoch: newest.epoch } });
  assert.deepEqual(offsets(before), [17, 16, 15], 'the page before it');
  assert.equal(newest.offset, 20);
  assert.ok(newest.epoch);

  const since = await subscription.history({ limit: 4, since: { offset: 10, epoch: newest.epoch } });
  assert.deepEqual(offsets(since), [11, 12, 13, 14]);
  assert.deepEqual(since.publications.map(({ info }) => info.user), ['ann', 'ann', 'ann', 'ann']);

  const head = await subscription.history({ limit: 0 });
  assert.deepEqual([head.publications, head.offset, head.epoch], [[], 20, newest.epoch]);
});

test('after unsubscribe nothing comes, and subscribing again brings what was missed', async (t) => {
  const ann = await join(connect(t, relay, 'ann').client, 'leaving');
  const { client, network } = connect(t, relay, 'bob');
  const bob = await join(client, 'leaving');
  bob.subscription.unsubscribe();
  // The relay answers commands in order: with this reply it has taken the unsubscribe.
  await client.history('leaving', { limit: 0 });
  const pushes = [];
  network.socket.on('message', (message) => pushes.push(message.toString()));

  await publishMany(ann.subscription, 'unheard', 3);
  await ann.inbox.holds(3);
  await client.history('leaving', { limit: 0 });
  assert.ok(!pushes.some((push) => push.includes('unheard')), `came after unsubscribe: ${pushes}`);

  const again = next(bob.subscription, 'subscribed');
  bob.subscription.subscribe();
  await again;
  await ann.subscription.publish('heard');
  await bob.inbox.holds(4);
  assert.deepEqual(bob.inbox.bodies, [...texts('unheard', 3), 'heard']);
});

test('pings keep an idle client alive past the idle timeout', async (t) => {
  const { client, network } = connect(t, relay, 'ann', { maxServerPingDelay: 5000 });
  await next(client, 'connected');
  let pings = 0;
  await new Promise((resolve) => {
    network.socket.on('message', (message) => (pings += message.toString() === '{}') === 4 && resolve());
    client.once('connecting', resolve);
  });
  assert.equal(pings, 4);
  assert.equal(network.sockets.length, 1, 'on one and the same connection');
});
