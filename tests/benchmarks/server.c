/* server.py as a program of its own: `server CORE [CERTIFICATE]`. What it answers is described there, and is the same
   to the byte. In C, so that next to nothing of what a benchmark measures is the server.

   Only libc and POSIX threads; compiled WITH_TLS also OpenSSL, without which it takes no certificate. The connection
   of a client that asks for what cannot be answered is closed. */

#define _GNU_SOURCE /* memmem, strcasestr, CPU_SET */

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#ifdef WITH_TLS
#include <openssl/err.h>
#include <openssl/ssl.h>
#endif

enum { FINAL_TEXT = 0x81, CLOSE = 0x88, PING = 0x89, PONG = 0x8A };

enum {
    HEAD_LIMIT = 1 << 16,
    KEY_LIMIT = 83, /* so that SHA-1 takes two blocks at most; real keys have 24 characters */
    FRAME_LIMIT = 1 << 28,
    RECEIVE_BYTES = 1 << 18,
    TLS_SEND_BYTES = 1 << 16,
    FAR_BYTES = 1 << 16, /* if a frame lacks as much, its rest is received into room that is made once */
    SMALL_BYTES = 4096,  /* up to this a request is unmasked as a whole; of a larger one only both ends */
    END_BYTES = 256,
};

#define GUID "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
#define SPACE " \t\n\r\f\v"
#define GREETING "{\"jsonrpc\":\"2.0\",\"result\":{\"session_id\":\"bench\"},\"id\":null}"
#define SMALL_REPLY \
    "{\"jsonrpc\":\"2.0\",\"result\":{\"variable_id\":\"9f1c2d3e-0000-4000-8000-0123456789ab\"," \
    "\"message\":\"Variable updated successfully.\",\"field\":\"data\",\"value\":\"a text of a few words\"},"
#define CREATED \
    "{\"jsonrpc\":\"2.0\",\"result\":{\"message\":\"Variable created successfully.\",\"variable_id\":\"%u\"},"
#define RAN \
    "{\"jsonrpc\":\"2.0\",\"result\":{\"message\":\"Function executed successfully.\"," \
    "\"data\":{\"variable_id\":\"%u\",\"data\":\"xx\",\"role\":\"r\",\"requires_grad\":false,\"_retain_grad\":false," \
    "\"_grad\":[],\"_output_nr\":0,\"_grad_fn\":null,\"is_leaf\":true}},"
#define BIG_BEGIN "{\"jsonrpc\":\"2.0\",\"result\":{\"data\":\""
#define BIG_END "\"},"
#define SWITCHING \
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
#define VERIFIED \
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 42\r\nConnection: close\r\n\r\n" \
    "{\"email\":\"a@example.org\",\"username\":\"ann\"}"

typedef struct {
    uint8_t *start;
    size_t size, capacity;
} Bytes;

typedef struct {
    int sock;
    unsigned created;
    size_t missing; /* of the frame whose beginning is in `in`, as far as its header tells */
    Bytes in, out;
#ifdef WITH_TLS
    SSL *tls; /* NULL: plain TCP */
#endif
} Connection;

typedef struct {
    uint8_t first;
    size_t header_size;
    uint64_t size;
    const uint8_t *mask, *payload;
} Frame;

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void make_room(Bytes *bytes, size_t more)
{
    if (more <= bytes->capacity - bytes->size)
        return;
    bytes->capacity = bytes->capacity * 2 + more; /* FRAME_LIMIT keeps it from overflow */
    bytes->start = realloc(bytes->start, bytes->capacity);
    if (bytes->start == NULL)
        fail("realloc");
}

static void put(Bytes *bytes, const void *data, size_t size)
{
    make_room(bytes, size + 1); /* memcpy wants a place even for nothing */
    memcpy(bytes->start + bytes->size, data, size);
    bytes->size += size;
}

static void put_text(Bytes *bytes, const char *text)
{
    put(bytes, text, strlen(text));
}

static void drop_first(Bytes *bytes, size_t count)
{
    bytes->size -= count;
    if (count && bytes->size)
        memmove(bytes->start, bytes->start + count, bytes->size);
}

/* --- the socket, with and without TLS -------------------------------------------------------------- */

#ifdef WITH_TLS

static SSL_CTX *context;

/* Protocols and ciphers are as OpenSSL chooses them, and Python with it; both refuse what is older than TLS 1.2. */
static void load_certificate(const char *path)
{
    context = SSL_CTX_new(TLS_server_method());
    if (context == NULL || !SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION) ||
        SSL_CTX_use_certificate_chain_file(context, path) != 1 ||
        SSL_CTX_use_PrivateKey_file(context, path, SSL_FILETYPE_PEM) != 1) {
        ERR_print_errors_fp(stderr);
        exit(1);
    }
    /* Many small records with one call; more than the 16 KiB of this buffer cost more than they save: for each record
       OpenSSL moves all that is behind it. */
    SSL_CTX_set_read_ahead(context, 1);
    SSL_CTX_clear_mode(context, SSL_MODE_AUTO_RETRY); /* receive_tls does that, if there is nothing to answer */
}

static SSL *make_tls(int sock)
{
    SSL *tls = SSL_new(context);
    BIO *reader = BIO_new_socket(sock, BIO_NOCLOSE), *writer = BIO_new_socket(sock, BIO_NOCLOSE);
    BIO *gathered = BIO_new(BIO_f_buffer()); /* without it each 16 KiB of a batch of replies would be a send */
    if (!tls || !reader || !writer || !gathered || BIO_set_write_buffer_size(gathered, TLS_SEND_BYTES) != 1)
        fail("OpenSSL");
    SSL_set_bio(tls, reader, BIO_push(gathered, writer));
    SSL_set_accept_state(tls); /* the first reading does the handshake */
    return tls;
}

/* All records that have come together. The last one may only have begun, and then its rest is waited for: no client
   wants an answer, or ends, in the middle of a record. */
static ssize_t receive_tls(SSL *tls, uint8_t *target, size_t limit)
{
    size_t size = 0, count;
    while (size == 0 || (size < limit && SSL_has_pending(tls))) {
        if (SSL_read_ex(tls, target + size, limit - size, &count))
            size += count;
        else if (size > 0 || SSL_get_error(tls, 0) != SSL_ERROR_WANT_READ)
            break; /* the end; or, behind requests, a record without data: these are answered first */
    }
    return (ssize_t)size;
}

static ssize_t send_tls(SSL *tls, const uint8_t *data, size_t size)
{
    return SSL_write_ex(tls, data, size, &size) && BIO_flush(SSL_get_wbio(tls)) == 1 ? (ssize_t)size : -1;
}

#endif

static ssize_t receive_some(Connection *connection, uint8_t *target, size_t limit)
{
#ifdef WITH_TLS
    if (connection->tls != NULL)
        return receive_tls(connection->tls, target, limit);
#endif
    return recv(connection->sock, target, limit, 0);
}

static ssize_t send_some(Connection *connection, const uint8_t *data, size_t size)
{
#ifdef WITH_TLS
    if (connection->tls != NULL)
        return send_tls(connection->tls, data, size);
#endif
    return send(connection->sock, data, size, 0);
}

static bool receive(Connection *connection, size_t limit)
{
    Bytes *in = &connection->in;
    make_room(in, limit);
    ssize_t count = receive_some(connection, in->start + in->size, limit);
    in->size += count > 0 ? (size_t)count : 0;
    return count > 0;
}

/* Send all of `out`: in one go, unless it is more than the system takes. */
static bool send_out(Connection *connection)
{
    ssize_t count;
    for (size_t sent = 0; sent < connection->out.size; sent += (size_t)count) {
        count = send_some(connection, connection->out.start + sent, connection->out.size - sent);
        if (count < 0)
            return false;
    }
    connection->out.size = 0;
    return true;
}

/* --- frames (RFC 6455 §5.2) ------------------------------------------------------------------------ */

/* Whether the header is whole; of the payload any part may be missing. */
static bool read_header(const uint8_t *data, size_t available, Frame *frame)
{
    size_t short_size = available < 2 ? 0 : data[1] & 127;
    size_t size_bytes = short_size == 126 ? 2 : short_size == 127 ? 8 : 0;
    frame->header_size = 2 + size_bytes + 4;
    if (available < frame->header_size)
        return false;
    frame->first = data[0];
    frame->size = size_bytes ? 0 : short_size;
    for (size_t i = 0; i < size_bytes; i++)
        frame->size = frame->size << 8 | data[2 + i];
    frame->mask = data + 2 + size_bytes;
    frame->payload = frame->mask + 4;
    return true;
}

/* Put a header, and make room for the payload. */
static void begin_frame(Bytes *out, uint8_t first, size_t size)
{
    size_t size_bytes = size < 126 ? 0 : size < 1 << 16 ? 2 : 8;
    uint8_t header[10] = {first, (uint8_t)(size_bytes == 0 ? size : size_bytes == 2 ? 126 : 127)};
    for (size_t i = 0; i < size_bytes; i++)
        header[2 + i] = (uint8_t)((uint64_t)size >> 8 * (size_bytes - 1 - i));
    make_room(out, sizeof header + size + 1);
    put(out, header, 2 + size_bytes);
}

static void unmask(void *target, const uint8_t *payload, size_t size, const uint8_t *mask)
{
    uint8_t mask_twice[8], *to = target;
    uint64_t key, word;
    memcpy(mask_twice, mask, 4);
    memcpy(mask_twice + 4, mask, 4);
    memcpy(&key, mask_twice, 8);
    size_t at = 0;
    for (; size - at >= 8; at += 8) {
        memcpy(&word, payload + at, 8);
        word ^= key;
        memcpy(to + at, &word, 8);
    }
    for (; at < size; at++)
        to[at] = payload[at] ^ mask[at % 4];
}

static void echo(Bytes *out, uint8_t first, const Frame *frame, size_t size)
{
    begin_frame(out, first, size);
    unmask(out->start + out->size, frame->payload, size, frame->mask);
    out->size += size;
}

/* --- the handshake (RFC 6455 §4.2.2) --------------------------------------------------------------- */

static uint32_t rotate(uint32_t value, int bits)
{
    return value << bits | value >> (32 - bits);
}

static void sha1_block(uint32_t state[5], const uint8_t *block)
{
    uint32_t words[80];
    for (int i = 0; i < 16; i++, block += 4)
        words[i] = (uint32_t)block[0] << 24 | (uint32_t)block[1] << 16 | (uint32_t)block[2] << 8 | block[3];
    for (int i = 16; i < 80; i++)
        words[i] = rotate(words[i - 3] ^ words[i - 8] ^ words[i - 14] ^ words[i - 16], 1);
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3], e = state[4];
    for (int i = 0; i < 80; i++) {
        uint32_t mixed = i < 20 ? ((b & c) | (~b & d)) + 0x5A827999
                       : i < 40 ? (b ^ c ^ d) + 0x6ED9EBA1
                       : i < 60 ? ((b & c) | (b & d) | (c & d)) + 0x8F1BBCDC
                                : (b ^ c ^ d) + 0xCA62C1D6;
        uint32_t next = rotate(a, 5) + mixed + e + words[i];
        e = d, d = c, c = rotate(b, 30), b = a, a = next;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d, state[4] += e;
}

/* The base64 of the SHA-1 of the key and the GUID. */
static void make_accept(const char *key, size_t key_size, char accept[29])
{
    uint8_t text[128] = {0}, digest[21] = {0}; /* 20, and one more to make it whole groups of three */
    uint32_t state[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};
    size_t size = key_size + strlen(GUID), padded = size + 9 <= 64 ? 64 : 128;
    memcpy(text, key, key_size);
    memcpy(text + key_size, GUID "\x80", strlen(GUID) + 1);
    text[padded - 2] = (uint8_t)(size * 8 >> 8);
    text[padded - 1] = (uint8_t)(size * 8);
    for (size_t at = 0; at < padded; at += 64)
        sha1_block(state, text + at);
    for (int i = 0; i < 20; i++)
        digest[i] = (uint8_t)(state[i / 4] >> (24 - i % 4 * 8));
    for (int i = 0; i < 28; i++) {
        const uint8_t *group = digest + i / 4 * 3;
        unsigned bits = (unsigned)group[0] << 16 | (unsigned)group[1] << 8 | group[2];
        accept[i] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[bits >> (18 - i % 4 * 6) & 63];
    }
    strcpy(accept + 27, "=");
}

/* The greeting leaves in the same segment. What came behind the head stays in `in`. */
static bool upgrade(Connection *connection)
{
    Bytes *in = &connection->in, *out = &connection->out;
    char accept[29], *end;
    do {
        if (in->size >= HEAD_LIMIT || !receive(connection, HEAD_LIMIT))
            return false;
        end = memmem(in->start, in->size, "\r\n\r\n", 4);
    } while (end == NULL);
    *end = 0;
    const char *header = "\r\nsec-websocket-key:", *key = strcasestr((char *)in->start, header);
    if (key != NULL)
        key += strlen(header) + strspn(key + strlen(header), " \t");
    if (key == NULL || strcspn(key, SPACE) == 0) {
        put_text(out, VERIFIED);
        send_out(connection);
        return false;
    }
    if (strcspn(key, SPACE) > KEY_LIMIT)
        return false;
    make_accept(key, strcspn(key, SPACE), accept);
    drop_first(in, (size_t)((uint8_t *)end + 4 - in->start));
    put_text(out, SWITCHING);
    put_text(out, accept);
    put_text(out, "\r\n\r\n");
    begin_frame(out, FINAL_TEXT, strlen(GREETING));
    put_text(out, GREETING);
    return send_out(connection);
}

/* --- requests -------------------------------------------------------------------------------------- */

/* The first member "id" that is a string or a number, rewritten in its place to be the last of an object: before its
   value stands no less than is written there, and behind the text is room for one more. NULL: there is none. */
static const char *rewrite_id_member(char *text, size_t size, size_t *member_size)
{
    for (char *at = text; (at = memmem(at, (size_t)(text + size - at), "\"id\"", 4)) != NULL; at++) {
        char *colon = at + 4 + strspn(at + 4, SPACE);
        if (*colon != ':')
            continue;
        char *value = colon + 1 + strspn(colon + 1, SPACE);
        char *end = value + strspn(value, "0123456789");
        if (*value == '"' && (end = strchr(value + 1, '"')) != NULL)
            end++;
        if (end == NULL || end == value)
            continue;
        memcpy(value - 5, "\"id\":", 5);
        *end = '}';
        *member_size = (size_t)(end + 1 - (value - 5));
        return value - 5;
    }
    return NULL;
}

/* What the reply is to end with: the text from its last "id" on, as a rule the last member. NULL: there is nothing. */
static const char *find_id_member(char *text, size_t size, size_t *member_size)
{
    size_t at = size;
    while (at > 0 && strncmp(text + at, "\"id\"", 4) != 0)
        at--;
    if (size > 0 && strncmp(text + at, "\"id\"", 4) != 0)
        at = size - 1; /* as in server.py, where a search for what is not there gives -1 */
    *member_size = size - at;
    return memchr(text + at, ',', size - at) == NULL ? text + at : rewrite_id_member(text, size, member_size);
}

static bool holds(const char *text, size_t size, const char *word)
{
    return memmem(text, size, word, strlen(word)) != NULL;
}

/* Put the reply to a request. False: it cannot be answered. */
static bool answer(Connection *connection, const Frame *frame)
{
    Bytes *out = &connection->out;
    char text[SMALL_BYTES + 1], made[sizeof RAN + 10] = ""; /* RAN is the longer one */
    size_t size = (size_t)frame->size, text_size = size;
    if (size <= SMALL_BYTES) {
        unmask(text, frame->payload, size, frame->mask);
    } else {
        size_t tail = (size - END_BYTES) / 4 * 4; /* where the mask begins anew */
        unmask(text, frame->payload, END_BYTES, frame->mask);
        unmask(text + END_BYTES, frame->payload + tail, size - tail, frame->mask);
        text_size = END_BYTES + size - tail;
    }
    text[text_size] = 0;
    if (holds(text, text_size, "bench_hold"))
        return true;
    bool is_big = holds(text, text_size, "bench_big");
    if (!is_big && holds(text, text_size, "\"create_variable\""))
        snprintf(made, sizeof made, CREATED, ++connection->created);
    else if (!is_big && holds(text, text_size, "\"run_function\""))
        snprintf(made, sizeof made, RAN, ++connection->created);
    size_t member_size, filling = is_big ? size : 0;
    const char *member = find_id_member(text, text_size, &member_size);
    if (member == NULL)
        return false;
    const char *begin = is_big ? BIG_BEGIN : *made ? made : SMALL_REPLY, *end = is_big ? BIG_END : "";
    begin_frame(out, FINAL_TEXT, strlen(begin) + filling + strlen(end) + member_size);
    put_text(out, begin);
    memset(out->start + out->size, 'x', filling);
    out->size += filling;
    put_text(out, end);
    put(out, member, member_size);
    return true;
}

/* --- a connection ---------------------------------------------------------------------------------- */

/* Answer every whole frame that is there, in one send. Whether the connection stays. */
static bool answer_all(Connection *connection)
{
    Bytes *in = &connection->in, *out = &connection->out;
    Frame frame;
    size_t position = 0;
    connection->missing = 0;
    while (read_header(in->start + position, in->size - position, &frame)) {
        if (frame.size > FRAME_LIMIT)
            return false;
        size_t size = (size_t)frame.size, whole = frame.header_size + size;
        if (whole > in->size - position) {
            connection->missing = whole - (in->size - position);
            break;
        }
        if (frame.first == CLOSE) {
            echo(out, CLOSE, &frame, size < 2 ? size : 2);
            send_out(connection);
            return false;
        }
        if (frame.first == FINAL_TEXT && !answer(connection, &frame))
            return false;
        if (frame.first == PING)
            echo(out, PONG, &frame, size);
        position += whole;
    }
    drop_first(in, position);
    return send_out(connection);
}

static bool receive_more(Connection *connection)
{
    if (connection->missing < FAR_BYTES)
        return receive(connection, RECEIVE_BYTES);
    for (size_t whole = connection->in.size + connection->missing; connection->in.size < whole;)
        if (!receive(connection, whole - connection->in.size))
            return false;
    return true;
}

static void serve_client(Connection *connection)
{
    setsockopt(connection->sock, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    bool is_open = upgrade(connection);
    while (is_open)
        is_open = answer_all(connection) && receive_more(connection);
    free(connection->in.start);
    free(connection->out.start);
}

static void *serve_plain(void *sock)
{
    Connection connection = {.sock = (int)(intptr_t)sock};
    serve_client(&connection);
    close(connection.sock);
    return NULL;
}

#ifdef WITH_TLS
static void *serve_tls(void *sock)
{
    Connection connection = {.sock = (int)(intptr_t)sock, .tls = make_tls((int)(intptr_t)sock)};
    serve_client(&connection);
    SSL_free(connection.tls);
    close(connection.sock);
    return NULL;
}
#endif

static void start_thread(void *function(void *), void *argument)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, function, argument) != 0)
        fail("pthread_create");
    pthread_detach(thread);
}

typedef struct {
    void *(*serve)(void *);
    int listener;
} Door;

/* Accept for ever; one thread for each connection. */
static void *accept_all(void *at)
{
    for (const Door *door = at;;) {
        int sock = accept(door->listener, NULL, NULL);
        if (sock >= 0)
            start_thread(door->serve, (void *)(intptr_t)sock);
        else if (errno != ECONNABORTED && errno != EINTR)
            fail("accept");
    }
    return NULL;
}

/* The port that leads there from now on. */
static int open_door(Door *door)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr *any = (struct sockaddr *)&address;
    socklen_t size = sizeof address;
    door->listener = socket(AF_INET, SOCK_STREAM, 0);
    if (door->listener < 0 || bind(door->listener, any, size) || listen(door->listener, 64) ||
        getsockname(door->listener, any, &size))
        fail("listen");
    start_thread(accept_all, door);
    return ntohs(address.sin_port);
}

static void pin(size_t core)
{
#ifdef __linux__
    cpu_set_t cores;
    CPU_ZERO(&cores);
    CPU_SET(core, &cores);
    if (sched_setaffinity(0, sizeof cores, &cores) != 0)
        fail("sched_setaffinity");
#else
    fprintf(stderr, "cannot pin to core %zu here\n", core);
    exit(1);
#endif
}

int main(int argc, char **argv)
{
    if (argc != 2 && argc != 3) {
        fprintf(stderr, "usage: server CORE [CERTIFICATE]\n");
        return 2;
    }
    if (atoi(argv[1]) >= 0)
        pin((size_t)atoi(argv[1]));
    signal(SIGPIPE, SIG_IGN); /* who goes ends a connection, not the program */
    static Door plain = {.serve = serve_plain};
    char tls_port[32] = "";
    if (argc == 3) {
#ifdef WITH_TLS
        static Door tls = {.serve = serve_tls};
        load_certificate(argv[2]);
        snprintf(tls_port, sizeof tls_port, ", \"tls_port\": %d", open_door(&tls));
#else
        fprintf(stderr, "built without TLS\n");
        return 2;
#endif
    }
    printf("{\"port\": %d%s}\n", open_door(&plain), tls_port);
    fflush(stdout);
    char ignored[256];
    while (read(STDIN_FILENO, ignored, sizeof ignored) > 0)
        continue;
    return 0;
}
