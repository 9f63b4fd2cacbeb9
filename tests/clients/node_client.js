// Sends one mail with Node's standard library.
//
//     node_client.js starttls|implicit|open HOST PORT USER PASSWORD CERTIFICATE FROM TO

'use strict';

const fs = require('node:fs');
const net = require('node:net');
const tls = require('node:tls');

const [way, host, port, user, password, certificate, sender, recipient] = process.argv.slice(2);
const trust = { servername: host, ca: fs.readFileSync(certificate) };

/** Says a line, if any, and reads the reply to its last line. */
function ask(socket, line, wanted) {
  return new Promise((resolve, reject) => {
    let heard = '';
    const done = (error) => {
      socket.removeAllListeners();
      error ? reject(error) : resolve(heard);
    };
    socket.on('data', (piece) => {
      heard += piece;
      if (!/^\d{3}( .*)?\r\n$/m.test(heard)) return;
      done(heard.startsWith(wanted) ? null : new Error(`${line}: ${heard}`));
    });
    socket.on('error', done);
    socket.on('close', () => done(new Error(`closed at ${line}`)));
    if (line !== null) socket.write(`${line}\r\n`);
  });
}

async function main() {
  let socket =
    way === 'implicit' ? tls.connect({ host, port, ...trust }) : net.connect({ host, port });
  socket.setEncoding('utf8');
  await ask(socket, null, '220');
  await ask(socket, 'EHLO node.example.com', '250');
  if (way === 'starttls') {
    await ask(socket, 'STARTTLS', '220');
    socket = tls.connect({ socket, ...trust });
    socket.setEncoding('utf8');
    await ask(socket, 'EHLO node.example.com', '250');
  }
  if (way !== 'open') {
    await ask(socket, 'AUTH LOGIN', '334');
    await ask(socket, Buffer.from(user).toString('base64'), '334');
    await ask(socket, Buffer.from(password).toString('base64'), '235');
  }
  await ask(socket, `MAIL FROM:<${sender}>`, '250');
  await ask(socket, `RCPT TO:<${recipient}>`, '250');
  await ask(socket, 'DATA', '354');
  await ask(socket, `From: ${sender}\r\nTo: ${recipient}\r\nSubject: node\r\n\r\n${way}\r\n.`, '250');
  await ask(socket, 'QUIT', '221');
  socket.end();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
