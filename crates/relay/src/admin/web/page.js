// What is behind `[admin] address` for people. It asks /api/v1 and shows what is answered; it orders nothing.
//
// Nearly all that is shown was written by strangers: subjects, addresses, the words of servers. It becomes text in
// text nodes, by `make`, and is never read as markup; the headers that the page comes with forbid that besides.

/** Milliseconds between two looks, while somebody can see the page. */
const PAUSE = 5_000;
/** Milliseconds between two counts, each of which reads all mail of its time. */
const COUNTS = 300_000;
/** Milliseconds until the relay is taken for away. */
const PATIENCE = 30_000;
/** Milliseconds of mail that are counted. */
const COUNTED = 7 * 86_400_000;
/** Mails in a list at most. */
const MOST = 25;
/** Recipients that a list names of one mail. */
const NAMED = 3;
/** What sessionStorage calls the token. */
const TOKEN = "mailtrail-token";

const at = (id) => document.getElementById(id);
const main = document.querySelector("main");
const token = () => sessionStorage.getItem(TOKEN);

// Asking.

/** What keeps the page from showing something, in words for whoever reads it. */
class Trouble extends Error {
    /** `refused`: it is of no use to ask again with this token, and each time would be a warning in the log. */
    constructor(text, refused = false) {
        super(text);
        this.refused = refused;
    }
}

async function ask(path, query = {}) {
    let status, text;
    try {
        const answer = await fetch(`${path}?${new URLSearchParams(query)}`, {
            headers: { Authorization: `Bearer ${token()}` },
            cache: "no-store",
            redirect: "error",
            signal: AbortSignal.timeout(PATIENCE),
        });
        [status, text] = [answer.status, await answer.text()];
    } catch {
        throw new Trouble("The relay does not answer. Look whether it runs: systemctl status mailtrail. "
            + "The page goes on asking.");
    }
    if (status !== 200) {
        throw new Trouble(remedy(status, text), [401, 403, 421].includes(status));
    }
    return JSON.parse(text);
}

function remedy(status, words) {
    switch (status) {
        case 401:
            return "The relay does not take this token. Type the one in the file that token_file in [admin] names; "
                + "after a change of the file: systemctl reload mailtrail.";
        case 403:
        case 421:
            return `The relay refuses: ${words}. Open the page as http and localhost, or add the name in the address `
                + "bar to hosts in [admin].";
        case 404:
            return "The relay answers no questions here, because it has no token. Put one into a file, name it as "
                + "token_file in [admin], then: systemctl reload mailtrail.";
        default:
            return `The relay answers with ${status}: ${words}. Its log says more: journalctl -u mailtrail.`;
    }
}

// Making elements.

/** An element with these properties, and in it elements and texts. What is null or empty is left out. */
function make(name, properties, ...children) {
    const element = Object.assign(document.createElement(name), properties);
    element.append(...children.filter((child) => child !== null && child !== ""));
    return element;
}

const faint = (...children) => make("p", { className: "faint" }, ...children);
/** A stranger's text: its direction is its own affair. */
const theirs = (text) => make("bdi", {}, text ?? "");
/** Date and time by the clock of this browser's place, in the order of ISO 8601. */
function local(moment) {
    const date = new Date(moment);
    const two = (number) => String(number).padStart(2, "0");
    const day = [date.getFullYear(), two(date.getMonth() + 1), two(date.getDate())].join("-");
    return `${day} ${[date.getHours(), date.getMinutes(), date.getSeconds()].map(two).join(":")}`;
}

/** A time, or nothing. */
const time = (moment) => moment
    ? make("time", { dateTime: moment, title: moment }, local(moment))
    : null;
const state = (word) => make("span", { className: `state ${NEWS.get(word) ?? "else"}` }, word);
/** The words that are there, with a blank behind each. */
const spaced = (...parts) => parts.filter((part) => part !== null && part !== "").flatMap((part) => [part, " "]);
const list = (name, items) => make(name, {}, ...items.map((item) => make("li", {}, ...item)));
const toMail = (id, ...children) => make("a", { href: `#mail=${id}` }, ...children);

/** The colours of states and events, as the command line has them. */
const NEWS = new Map([
    ...["delivered", "opened", "clicked", "closed"].map((word) => [word, "good"]),
    ...["bounced", "failed", "expired", "cancelled", "complained", "suppressed", "open"].map((word) => [word, "bad"]),
    ...["deferred", "unknown", "queued", "held", "sending", "unsubscribed", "half-open"].map((word) => [word, "open"]),
]);

/** A table that scrolls where it is wider than the page. The first cell of a row is its head; numbers stand right. */
function table(caption, heads, rows) {
    const head = (text) => make("th", { scope: "col" }, text);
    const cell = (value, place) => {
        const className = typeof value === "number" ? "number" : "";
        const [name, properties] = place === 0 ? ["th", { scope: "row" }] : ["td", { className }];
        return make(name, properties, value instanceof Node ? value : theirs(String(value ?? "")));
    };
    const lines = rows.map((row) => make("tr", {}, ...row.map(cell)));
    const grid = make("table", {},
        make("thead", {}, make("tr", {}, ...heads.map(head))), make("tbody", {}, ...lines));
    return make("div", { className: "wide", tabIndex: 0, role: "region", ariaLabel: caption }, grid);
}

/** What was drawn last, by the id of its place: what has not changed stays, with what is marked in it. */
const drawn = new Map();

function draw(id, data, build) {
    const text = JSON.stringify(data);
    if (drawn.get(id) === text) {
        return;
    }
    drawn.set(id, text);
    const place = at(id);
    const focused = place.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    place.replaceChildren(...build(data));
    focusOn(place, focused);
}

/** Puts the focus on the link that leads there, if there is one. */
function focusOn(place, href) {
    const links = [...place.querySelectorAll("a")];
    links.find((link) => link.getAttribute("href") === href)?.focus();
}

// What is shown.

const REFUSED = new Set([
    "bounced", "failed", "expired", "suppressed", "queued", "unknown", "held", "cancelled",
]);
const MARKS = ["opened", "clicked", "unsubscribed", "complained"];

const titled = (mail) => mail.subject === "" ? "(no subject)" : theirs(mail.subject);

/** One recipient with what became of the mail to it. */
function verdict(recipient) {
    const marks = MARKS.filter((mark) => mark in recipient.marks).map(state);
    const reason = REFUSED.has(recipient.state) && recipient.reason ? theirs(recipient.reason) : null;
    return spaced(theirs(recipient.address), state(recipient.state), ...marks, reason);
}

/** Mails, each in a few lines. */
function mails(trails) {
    return [list("ol", trails.map((trail) => {
        const [few, others] = [trail.recipients.slice(0, NAMED), trail.recipients.length - NAMED];
        return [
            toMail(trail.id, titled(trail)),
            faint(...spaced(time(trail.accepted), "from", theirs(trail.from || "<>"), "by", theirs(trail.client))),
            list("ul", few.map(verdict)),
            others > 0 ? faint(`and ${others} more`) : null,
        ];
    }))];
}

function newest({ trails }) {
    return trails.length === 0 ? [faint("No mail is known.")] : mails(trails);
}

function alarms(all) {
    return all.length === 0 ? [make("p", { className: "good" }, "No alarm is on.")] : [
        list("ul", all.map((alarm) => [
            make("span", { className: "state bad" }, alarm.alarm), " ",
            theirs(alarm.subject), ": ", theirs(alarm.text),
            faint("since ", time(alarm.since)),
        ])),
        faint("The handbook, docs/operations.md, says what to do about each."),
    ];
}

function waiting(lines) {
    if (lines.length === 0) {
        return [faint("No mail waits.")];
    }
    const items = lines.slice(0, MOST).map((line) => {
        const others = line.to.length - NAMED;
        const to = line.to.slice(0, NAMED).join(", ") + (others > 0 ? ` and ${others} more` : "");
        return [
            toMail(line.id, "to ", theirs(to)), " ", state(line.state),
            faint(...spaced("from", theirs(line.from || "<>"), "accepted", time(line.accepted),
                `attempts: ${line.attempts}`, line.next_at ? "next" : null, time(line.next_at))),
            line.reason ? make("p", {}, theirs(line.reason)) : null,
        ];
    });
    return [list("ol", items), lines.length > MOST ? faint("More mail waits; the figures below count it.") : ""];
}

function breakers(all) {
    const why = (one) => [
        one.reason,
        one.until && `asked again ${one.until}`,
        one.paused_until && `takes nothing until ${one.paused_until}`,
        one.slowed_to && `slowed to ${one.slowed_to} a minute`,
    ].filter(Boolean).join("; ");
    const percent = (used) => used === null ? "" : `${used} %`;
    return [table("Upstreams", ["Upstream", "Breaker", "Connections", "Quota used", "Why"], all.map((one) =>
        [one.upstream, state(one.state), one.connections, percent(one.quota_used), why(one)]))];
}

function sinks(all) {
    return all.length === 0 ? [faint("Nobody is told what becomes of the mail.")] : [
        table("Sinks", ["Sink", "Has everything", "Delayed", "Refused for good"], all.map((sink) =>
            [sink.sink, sink.is_up_to_date ? "yes" : "not yet", sink.delayed, sink.refused])),
    ];
}

const COUNTED_AS = [
    "recipients", "open", "relayed", "delivered", "bounced", "failed", "suppressed", "cancelled",
];
const RATES = [
    "delivery_rate", "bounce_rate", "soft_bounce_rate", "complaint_rate", "open_rate", "click_rate",
];

function stats(lines) {
    if (lines.every((line) => line.recipients === 0)) {
        return [faint("No mail was accepted in that time.")];
    }
    const percent = (rate) => make("span", {}, rate === null ? "-" : `${(rate * 100).toFixed(2)} %`);
    const heads = ["Day (UTC)", ...COUNTED_AS, ...RATES.map((rate) => rate.replaceAll("_", " "))];
    return [table("Recipients of the last days", heads, lines.map((line) => [
        line.by === "total" ? "in all" : line.group,
        ...COUNTED_AS.map((name) => line[name]),
        ...RATES.map((name) => percent(line[name])),
    ]))];
}

function shape(all) {
    const ends = [5, 10, 20, 40, 80, 160, 320, 640, 1280].map((minutes) => `< ${minutes} min`);
    const heads = ["Domain", "Upstream", "In all", ...ends, "older"];
    return all.length === 0 ? [faint("No recipient waits.")] : [
        table("Waiting recipients by age", heads, all.map((one) =>
            [one.domain, one.upstream, one.total, ...one.ages])),
    ];
}

// One mail.

function trail({ trails: [mail] }) {
    if (!mail) {
        return [faint("No mail with this tracking id is known; what is older than [retention] is forgotten.")];
    }
    const next = mail.next_action ? [make("h3", {}, "Next"),
        make("p", {}, ...spaced(theirs(mail.next_action), time(mail.next_at)))] : [];
    return [
        about(mail),
        make("h3", {}, "Recipients"), list("ul", mail.recipients.map(verdict)),
        make("h3", {}, "What happened"), list("ol", mail.timeline.map((fact) => happened(fact, mail))),
        ...next,
    ];
}

function about(mail) {
    const facts = [
        ["Tracking id", make("code", {}, mail.id)],
        ["Accepted", time(mail.accepted)],
        ["From", theirs(mail.from || "<>")],
        ["Client", theirs([mail.client, mail.user, mail.peer].filter(Boolean).join(", "))],
        ["Message-ID", mail.message_id && theirs(mail.message_id)],
        ["Odoo record", mail.record && record(mail)],
        ["Tags", mail.tags.length > 0 ? theirs(mail.tags.join(", ")) : null],
        ["Route", mail.route && theirs(mail.route)],
        ["Size", `${mail.size} bytes, ${mail.lane}`],
        ["Attempts", String(mail.attempts)],
    ];
    const there = facts.filter(([, value]) => value);
    return make("dl", {}, ...there.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
}

/** The record, with a link to where Odoo shows it. */
function record({ record, record_url }) {
    const leads = record_url && URL.canParse(record_url) && /^https?:$/.test(new URL(record_url).protocol);
    return leads ? make("a", { href: record_url, rel: "noreferrer" }, theirs(record)) : theirs(record);
}

/** One line of what happened, in the order of the command line's. */
function happened(fact, mail) {
    const whom = mail.recipients.length > 1 && fact.recipients.length > 0 ? `${fact.recipients.join(", ")}:` : null;
    const by = { smtp: (name) => `at ${name}:`, operator: (name) => `by ${name}` + (fact.text ? ":" : "") };
    const words = [
        fact.upstream, whom, fact.name && by[fact.source]?.(fact.name), fact.code && String(fact.code),
        fact.enhanced, fact.text, fact.url, fact.host && !fact.text ? `from ${fact.host}` : null,
        fact.by_machine ? "(by software)" : null, fact.joined_by && `[joined by ${fact.joined_by}]`,
        fact.next_attempt && `[next attempt ${fact.next_attempt}]`,
    ];
    return spaced(time(fact.at), state(fact.event), make("span", { className: "faint" }, fact.source),
        theirs(words.filter(Boolean).join(" ")));
}

/** The tracking id that the address bar names. */
const named = () => /^#mail=([0-9A-Z]{26})$/.exec(location.hash)?.[1] ?? null;

async function showMail(id) {
    const answer = await ask("/api/v1/trace", { what: id, limit: 1 });
    if (named() !== id) {
        return;
    }
    draw("subject", answer, ({ trails: [mail] }) => [mail ? titled(mail) : "Not found"]);
    draw("trail", answer, trail);
}

async function showOverview() {
    // One question first: a wrong token is one warning in the log. The newest mails are those that fit any words, and
    // one more than a list has tells that there are more.
    const wrong = await ask("/api/v1/alarms");
    const [last, queued, upstreams, receivers] = await Promise.all([
        ask("/api/v1/trace", { what: "", limit: MOST }),
        ask("/api/v1/queue", { limit: MOST + 1 }),
        ask("/api/v1/breakers"),
        ask("/api/v1/sinks"),
    ]);
    draw("alarms", wrong, alarms);
    draw("newest", last, newest);
    draw("queue", queued, waiting);
    draw("breakers", upstreams, breakers);
    draw("sinks", receivers, sinks);
}

/** When it was counted last, and whether that is being done. */
let counted = -COUNTS;
let counting = false;

async function count() {
    if (counting) {
        return;
    }
    counting = true;
    at("counted").textContent = "Being counted…";
    try {
        const until = Date.now();
        const [days, ages] = await Promise.all([
            ask("/api/v1/stats", { since: until - COUNTED, until, by: "day" }),
            ask("/api/v1/queue/shape"),
        ]);
        draw("stats", days, stats);
        draw("shape", ages, shape);
        at("counted").textContent = `Counted ${clock()}.`;
    } catch (trouble) {
        at("counted").textContent = told(trouble);
    } finally {
        counted = performance.now();
        counting = false;
    }
}

// Coming, looking, going.

const clock = () => local(Date.now()).slice(11);

function say(text) {
    if (at("said").textContent !== text) {
        at("said").textContent = text;
    }
}

/** What is to be said of it. What is no trouble of the relay's is a fault of this page: the console has it, too. */
function told(trouble) {
    if (!(trouble instanceof Trouble)) {
        reportError(trouble);
        return `This page has a fault: ${trouble.message}. Load it again; the command line works all the same.`;
    }
    return trouble.message;
}

/** Shows what the token opens, or asks for one. */
function arrange() {
    const entered = token() !== null;
    at("door").hidden = entered;
    main.hidden = at("leave").hidden = !entered;
    at("mail").hidden = named() === null;
    at("overview").hidden = at("found").hidden = at("sought").hidden = named() !== null;
}

/** Where answers are shown. */
const SHOWN = [
    "sought", "found", "subject", "trail", "alarms", "newest", "queue", "breakers", "sinks", "counted", "stats", "shape",
];

let timer;
let looking = false;

async function look() {
    clearTimeout(timer);
    if (looking || document.hidden || token() === null) {
        return;
    }
    looking = true;
    const id = named();
    try {
        await (id === null ? showOverview() : showMail(id));
        say("");
        at("asked").textContent = `Asked ${clock()}.`;
        if (id === null && performance.now() - counted >= COUNTS) {
            count();
        }
    } catch (trouble) {
        say(told(trouble));
        if (trouble.refused) {
            forget();
        }
    } finally {
        looking = false;
        if (!document.hidden && token() !== null) {
            timer = setTimeout(look, named() === id ? PAUSE : 0);
        }
    }
}

/** Takes a token that opens nothing any more, and all that it opened, out of the page. */
function forget() {
    sessionStorage.removeItem(TOKEN);
    drawn.clear();
    counted = -COUNTS;
    for (const id of SHOWN) {
        at(id).replaceChildren();
    }
    arrange();
    at("token").focus();
}

at("door").addEventListener("submit", async (event) => {
    event.preventDefault();
    const typed = at("token").value.trim();
    at("token").value = "";
    // Nothing else can stand in a header field.
    if (!/^[\x21-\x7e]+$/.test(typed)) {
        say("A token has letters, digits and signs of ASCII, and no blanks. Type it again.");
        return;
    }
    sessionStorage.setItem(TOKEN, typed);
    say("");
    arrange();
    at("what").focus();
    look();
});

at("search").addEventListener("submit", async (event) => {
    event.preventDefault();
    const what = at("what").value.trim();
    if (named() !== null) {
        history.pushState(null, "", location.pathname);
        arrange();
        look();
    }
    at("found").replaceChildren();
    at("sought").textContent = what === "" ? "Type what names the mail." : "Being looked for…";
    if (what === "") {
        return;
    }
    try {
        const { trails, more } = await ask("/api/v1/trace", { what, limit: MOST });
        const number = trails.length === 1 ? "One mail fits." : `${trails.length} mails fit.`;
        at("sought").textContent = more
            ? `The newest ${MOST} that fit; mailtrail trace -n shows more.`
            : trails.length === 0 ? "No mail fits." : number;
        at("found").replaceChildren(...mails(trails));
    } catch (trouble) {
        at("sought").textContent = told(trouble);
    }
});

// A page that is loaded anew knows nothing any more, and what was under way is not answered.
at("leave").addEventListener("click", () => {
    sessionStorage.removeItem(TOKEN);
    location.replace(location.pathname);
});
at("count").addEventListener("click", count);
document.addEventListener("visibilitychange", () => document.hidden ? clearTimeout(timer) : look());

window.addEventListener("hashchange", (event) => {
    for (const id of ["subject", "trail"]) {
        drawn.delete(id);
        at(id).replaceChildren();
    }
    arrange();
    if (named() === null) {
        focusOn(main, new URL(event.oldURL).hash);
    } else {
        at("subject").textContent = "…";
        at("subject").focus();
    }
    look();
});

arrange();
look();
