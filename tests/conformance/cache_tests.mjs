// Runs http-cache-tests against a mirror, of which the suite knows nothing: it wants a cache for any path, and the mirror
// has Hub routes only. So each test's resource `/test/<uuid>` is made the facts of a repo, `/api/models/t/<uuid>`, the one
// kind of answer that the mirror keeps and revalidates like a cache; the suite's own server plays the Hub.
//
// What the mirror drops by design are the suite's headers for counting requests. The count is put back from the server's
// own memory: it says what the header would have said, and nothing about what the mirror did to the answer.
//
// Usage: node cache_tests.mjs PACKAGE_FOLDER; prints the server's URL, reads the mirror's from stdin, prints the results.

import http from 'node:http'
import path from 'node:path'
import readline from 'node:readline'
import { createRequire } from 'node:module'
import { pathToFileURL } from 'node:url'

const folder = path.resolve(process.argv[2])
const load = async name => import(pathToFileURL(path.join(folder, name)))
const nodeFetch = createRequire(path.join(folder, 'cli.mjs'))('node-fetch')
const { default: handleConfig } = await load('server/handle-config.mjs')
const { default: handleState } = await load('server/handle-state.mjs')
const { default: handleTest } = await load('server/handle-test.mjs')
const { stash } = await load('server/utils.mjs')
const { runTests, getResults } = await load('client/runner.mjs')
const { makeCacheTest } = await load('client/test.mjs')
const { default: suites } = await load('tests/index.mjs')
const { default: surrogate } = await load('tests/surrogate-control.mjs')

// Names of repos about which there is always an answer.
const WELL = 'well-'

// The suite's server talks; only results belong on stdout.
console.log = () => {}

// The mirror believes no page in the place of JSON, and no refusal without the Hub's marks: both come from portals. So a body
// goes as a member of an object, and is taken out of it again where the suite reads it.
function asTheHub (response) {
  const writeHead = response.writeHead.bind(response)
  response.writeHead = (status, ...rest) => {
    response.setHeader('Content-Type', 'application/json')
    if (status >= 400 && status < 500) response.setHeader('X-Error-Message', 'as the suite says')
    return writeHead(status, ...rest)
  }
  const end = response.end.bind(response)
  response.end = body => {
    if (body === undefined) return end()
    response.removeHeader('Content-Length')
    return end(JSON.stringify({ suite: body }))
  }
}

function asTheSuite (response) {
  const text = response.text.bind(response)
  response.text = async () => {
    const body = await text()
    try { return JSON.parse(body).suite ?? body } catch { return body }
  }
}

const server = http.createServer((request, response) => {
  const segments = new URL(request.url, 'http://a').pathname.split('/').slice(1)
  if (segments[0] === 'config') return handleConfig(segments.slice(1), request, response)
  if (segments[0] === 'state') return handleState(segments.slice(1), request, response)
  if (segments.slice(0, 3).join('/') !== 'api/models/t') return response.writeHead(404).end()
  // Anybody may read the repo: its answers may be kept.
  if (segments[4] === 'auth-check') return response.writeHead(200, { 'Content-Type': 'text/plain; charset=utf-8' }).end('OK')
  asTheHub(response)
  if (segments[3].startsWith(WELL)) return response.end('well')
  handleTest(segments.slice(3), request, response)
})
await new Promise(resolve => server.listen(0, '127.0.0.1', resolve))
const origin = `http://127.0.0.1:${server.address().port}`
process.stdout.write(origin + '\n')
const lines = readline.createInterface({ input: process.stdin })
const mirror = (await lines[Symbol.asyncIterator]().next()).value.trim()

async function fetchThroughMirror (url, init) {
  const test = url.match(/\/test\/([^/?]+)(.*)$/)
  if (!test) return nodeFetch(url, init)
  const response = await nodeFetch(`${mirror}/api/models/t/${test[1]}${test[2]}`, init)
  response.headers.set('Server-Request-Count', String((stash.get(test[1]) || []).length))
  asTheSuite(response)
  return response
}

// An upstream that fails is left alone for a moment, whoever asks. So the tests with a server that does run by themselves, each once
// the mirror takes it for well again.
const fails = test => test.requests.some(request => request.disconnect || request.response_status?.[0] >= 500 ||
  request.expected_type?.endsWith('validated'))
const all = [...suites, surrogate]
await runTests(all.map(suite => ({ ...suite, tests: suite.tests.filter(test => !fails(test)) })), fetchThroughMirror, false, origin)
let asked = 0
for (const test of all.flatMap(suite => suite.tests).filter(test => fails(test) && !test.browser_only)) {
  // A repo that was not asked for before, or the answer would be a kept one.
  while ((await nodeFetch(`${mirror}/api/models/t/${WELL}${asked++}`)).status !== 200) {
    await new Promise(resolve => setTimeout(resolve, 100))
  }
  await makeCacheTest(test)
}
const names = Object.fromEntries(all.flatMap(suite =>
  suite.tests.map(test => [test.id, { suite: suite.id, kind: test.kind || 'required' }])))
const results = Object.fromEntries(Object.entries(getResults()).sort().map(([id, result]) =>
  [id, { ...names[id], result: result === true ? 'pass' : result.join(': ').replaceAll(/[0-9a-f-]{36}/g, '<uuid>') }]))
process.stdout.write(JSON.stringify(results, null, 1) + '\n')
process.exit(0)
