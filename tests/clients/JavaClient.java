// Sends one mail with the JDK alone.
//
//     java JavaClient.java starttls|implicit|open HOST PORT USER PASSWORD CERTIFICATE FROM TO

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.Base64;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.TrustManagerFactory;

public class JavaClient {
    private Socket socket;
    private BufferedReader reader;

    public static void main(String[] words) throws Exception {
        new JavaClient().send(words[0], words[1], Integer.parseInt(words[2]), words[3], words[4], words[5], words[6], words[7]);
    }

    private void send(String way, String host, int port, String user, String password, String certificate, String sender,
            String recipient) throws Exception {
        use(new Socket(host, port));
        if (way.equals("implicit")) {
            secure(host, port, certificate);
        }
        expect("220");
        ask("EHLO java.example.com", "250");
        if (way.equals("starttls")) {
            ask("STARTTLS", "220");
            secure(host, port, certificate);
            ask("EHLO java.example.com", "250");
        }
        if (!way.equals("open")) {
            String login = "\0" + user + "\0" + password;
            ask("AUTH PLAIN " + Base64.getEncoder().encodeToString(login.getBytes(StandardCharsets.UTF_8)), "235");
        }
        ask("MAIL FROM:<" + sender + ">", "250");
        ask("RCPT TO:<" + recipient + ">", "250");
        ask("DATA", "354");
        ask("From: " + sender + "\r\nTo: " + recipient + "\r\nSubject: java\r\n\r\n" + way + "\r\n.", "250");
        ask("QUIT", "221");
        socket.close();
    }

    private void use(Socket socket) throws IOException {
        this.socket = socket;
        socket.setSoTimeout(30_000);
        reader = new BufferedReader(new InputStreamReader(socket.getInputStream(), StandardCharsets.UTF_8));
    }

    private void secure(String host, int port, String certificate) throws Exception {
        KeyStore trusted = KeyStore.getInstance(KeyStore.getDefaultType());
        trusted.load(null, null);
        try (var file = Files.newInputStream(Path.of(certificate))) {
            trusted.setCertificateEntry("relay", CertificateFactory.getInstance("X.509").generateCertificate(file));
        }
        var managers = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        managers.init(trusted);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, managers.getTrustManagers(), null);
        SSLSocket secured = (SSLSocket) context.getSocketFactory().createSocket(socket, host, port, true);
        SSLParameters parameters = secured.getSSLParameters();
        parameters.setEndpointIdentificationAlgorithm("HTTPS");
        secured.setSSLParameters(parameters);
        secured.startHandshake();
        use(secured);
    }

    private void ask(String line, String wanted) throws IOException {
        socket.getOutputStream().write((line + "\r\n").getBytes(StandardCharsets.UTF_8));
        socket.getOutputStream().flush();
        expect(wanted);
    }

    /** Reads a reply to its last line. */
    private void expect(String wanted) throws IOException {
        String line;
        do {
            line = reader.readLine();
            if (line == null || !line.startsWith(wanted)) {
                throw new IOException("wanted " + wanted + ", heard " + line);
            }
        } while (line.startsWith("-", 3));
    }
}
