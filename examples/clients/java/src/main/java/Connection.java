import com.google.gson.Gson;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.MetadataUtils;
import java.io.File;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;

class Connection {
    @SuppressWarnings("unchecked")
    static ManagedChannel channel(String url, String... caFile) throws Exception {
        var config = new Gson().fromJson(Files.readString(Path.of("../../../proto/service_config.json")), Map.class); // retries and deadlines
        var tls = TlsChannelCredentials.newBuilder();
        if (caFile.length > 0) tls.trustManager(new File(caFile[0]));
        var credentials = url.startsWith("https://") ? tls.build() : InsecureChannelCredentials.create();
        var token = new Metadata();
        var secret = System.getenv("MERGANSER_TOKEN");
        if (secret != null) token.put(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER), "Bearer " + secret);
        return Grpc.newChannelBuilder(url.replaceFirst("https?://", ""), credentials).defaultServiceConfig(config)
            .intercept(MetadataUtils.newAttachHeadersInterceptor(token)).build();
    }

    static void explain(StatusRuntimeException error) throws Exception {
        var line = "error: " + error.getStatus().getCode();
        for (var detail : StatusProto.fromThrowable(error).getDetailsList()) {
            if (detail.is(ErrorInfo.class)) line += ", reason " + detail.unpack(ErrorInfo.class).getReason();
            if (detail.is(BadRequest.class)) line += ", field " + detail.unpack(BadRequest.class).getFieldViolations(0).getField();
            if (detail.is(RetryInfo.class)) line += ", try again after " + detail.unpack(RetryInfo.class).getRetryDelay().getNanos() / 1_000_000 + " ms";
        }
        System.out.println(line);
    }
}
