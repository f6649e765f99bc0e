// An OpenID provider as Authentik is one, on npm's oidc-provider, which is certified.
//
//   node provider.mjs PORT STATE CALLBACK...
//
// Issuer http://localhost:PORT/application/o/zot/, client zot with secret zot-secret, any
// password. STATE is a file for what has to outlive a restart. People are changed while it
// runs by POST /test/users, as in {"alice": {"groups": ["admins"], "disabled": true}}, and
// GET /test/issued lists all that it ever issued which somebody could misuse.
import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import { Provider } from 'oidc-provider';

const [port, stateFile, ...callbacks] = process.argv.slice(2);
const base = `http://localhost:${port}`;
const under = (path) => `/application/o/${path}`;

const state = existsSync(stateFile) ? JSON.parse(readFileSync(stateFile)) : {
  records: {},
  issued: [],
  users: {
    alice: { name: 'Alice', groups: ['admins'] },
    'zot-ci': { name: 'Zot CI', groups: ['artifact-workloads'] },
    carol: { name: 'Carol', groups: [] },
  },
};

function save() {
  writeFileSync(`${stateFile}.new`, JSON.stringify(state));
  renameSync(`${stateFile}.new`, stateFile);
}

class FileAdapter {
  constructor(model) { this.model = model; }

  key(id) { return `${this.model}:${id}`; }

  async upsert(id, payload) {
    state.records[this.key(id)] = payload;
    save();
  }

  async find(id) { return state.records[this.key(id)]; }

  async findByUid(uid) {
    const [, found] = Object.entries(state.records).find(([key, record]) => key.startsWith(this.key('')) && record.uid === uid) ?? [];
    return found;
  }

  async consume(id) {
    state.records[this.key(id)].consumed = Math.floor(Date.now() / 1000);
    save();
  }

  async destroy(id) {
    delete state.records[this.key(id)];
    save();
  }

  async revokeByGrantId(grantId) {
    for (const [key, record] of Object.entries(state.records)) {
      if (record.grantId === grantId && key.startsWith(this.key(''))) delete state.records[key];
    }
    save();
  }
}

const provider = new Provider(`${base}${under('zot')}/`, {
  adapter: FileAdapter,
  clients: [{
    client_id: 'zot',
    client_secret: 'zot-secret',
    redirect_uris: callbacks,
    post_logout_redirect_uris: callbacks.map((callback) => `${new URL(callback).origin}/login?signed_out=1`),
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
  }],
  claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['name', 'preferred_username', 'groups'] },
  conformIdTokenClaims: false, // Authentik puts the claims into the ID token
  cookies: { keys: ['only-for-tests'] },
  features: { devInteractions: { enabled: true }, rpInitiatedLogout: { enabled: true } },
  pkce: { required: () => true },
  rotateRefreshToken: () => true, // each is good for one use, as Authentik's are
  routes: {
    authorization: under('authorize/'),
    token: under('token/'),
    userinfo: under('userinfo/'),
    jwks: under('zot/jwks/'),
    end_session: under('zot/end-session/'),
  },
  scopes: ['openid', 'offline_access'],
  async findAccount(ctx, id) {
    const user = state.users[id];
    if (!user || user.disabled) return undefined;
    const claims = { sub: id, preferred_username: id, name: user.name, email: `${id}@example.com`, email_verified: true, groups: user.groups };
    return { accountId: id, claims: async () => claims };
  },
});

provider.on('authorization.success', (ctx, { code }) => note({ code }));
provider.on('grant.success', ({ body }) => note(body));

function note({ code, access_token, refresh_token, id_token }) {
  state.issued.push(...[code, access_token, refresh_token, id_token].filter(Boolean));
  save();
}

function changeUsers(request, response) {
  let body = '';
  request.on('data', (chunk) => { body += chunk; });
  request.on('end', () => {
    for (const [id, change] of Object.entries(JSON.parse(body))) Object.assign(state.users[id], change);
    save();
    response.end();
  });
}

const answer = provider.callback();
const server = http.createServer((request, response) => {
  const url = new URL(request.url, base);
  if (url.pathname === '/test/users') return changeUsers(request, response);
  if (url.pathname === '/test/issued') return response.end(JSON.stringify(state.issued));
  if (url.pathname === under('zot/.well-known/openid-configuration')) request.url = '/.well-known/openid-configuration';
  return answer(request, response);
});
server.listen(port, '127.0.0.1');
